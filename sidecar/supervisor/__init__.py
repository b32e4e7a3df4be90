"""An agent and its proxy as children of one small process: `sidecar exec`.

The supervisor holds no key and is not hardened, since the agent inherits from it; but it has the variables that are kept
from the agent, and is concealed from it. It has one thread, so that it can fork.
"""
