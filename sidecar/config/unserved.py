"""What the format knows and this version does not serve yet: refused by name, so that nobody believes it is in force.

A part that serves one of these removes its row.
"""

from __future__ import annotations

from typing import Final

from sidecar import __version__
from sidecar.config.faults import ConfigCode, Refused

#: ``section.key`` for a key, ``section.key value`` for a value -> what to call it.
NOT_SERVED: Final = {
    "inbound.listen unix": "a UNIX socket to listen on for requests (unix:)",
    "inbound.forward tcp+unix": "forwarding of raw TCP to a UNIX socket (tcp+unix:)",
    "inbound.forward http+unix": "forwarding to a UNIX socket (http+unix:)",
    "inbound.forward https": "forwarding over TLS (https://)",
    "inbound.protocol": "a protocol of inbound entries other than that of forward (protocol)",
    "inbound.uids": "a choice of uids for a data listener (uids)",
    "outbound.listen unix": "a UNIX socket to listen on for requests (unix:)",
    "outbound.listen shared": "a second outbound entry on one listen address",
    "outbound.connect unix": "a UNIX socket to connect to (unix:)",
    "outbound.uids": "a choice of uids for a data listener (uids)",
    "health.listen unix": "a health listener on a UNIX socket (unix:)",
}


def not_served(feature: str) -> Refused:
    """Returns the refusal for one row of the table."""
    return Refused(
        ConfigCode.NOT_SERVED,
        f"not served yet: {NOT_SERVED[feature]}",
        hint=f"remove it; this is sidecar {__version__}, a later version may serve it",
    )
