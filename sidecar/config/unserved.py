"""What the format knows and this version does not serve yet: refused by name, so that nobody believes it is in force.

A part that serves one of these removes its row.
"""

from __future__ import annotations

from typing import Final

from sidecar import __version__
from sidecar.config.faults import ConfigCode, Refused

#: ``section.key`` for a key, ``section.key value`` for a value -> what to call it.
NOT_SERVED: Final = {
    "inbound.forward https": "forwarding over TLS (https://)",
    "inbound.protocol": "a protocol of inbound entries other than that of forward (protocol)",
}


def not_served(feature: str) -> Refused:
    """Returns the refusal for one row of the table."""
    return Refused(
        ConfigCode.NOT_SERVED,
        f"not served yet: {NOT_SERVED[feature]}",
        hint=f"remove it; this is sidecar {__version__}, a later version may serve it",
    )
