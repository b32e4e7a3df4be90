"""`sidecar demo`: two agents, two sidecars and three troublemakers on one machine, each a process of its own.

Nothing outside this folder imports the packages of the extra ``demo`` (`mcp`, `rich`).
"""
