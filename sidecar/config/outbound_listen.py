"""Who may use the listener of an outbound entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sidecar.config import kinds
from sidecar.config.faults import ConfigCode, Refused
from sidecar.config.schema import Key, listing, some

if TYPE_CHECKING:
    from sidecar.config.schema import Values
    from sidecar.config.values import TcpAddress

UIDS: Final = Key(
    "uids",
    listing(kinds.UID, empty=some("then processes of our own user alone are served")),
    (),
    "Users whose processes `listen` serves beside our own, root not included. A UNIX socket is mode 0600 without it, 0666 "
    "with it.",
)
UNSAFE_LISTEN: Final = Key(
    "unsafe_plaintext_listen",
    kinds.FLAG,
    False,
    "Lets `listen` leave loopback: whoever reaches it speaks with our identity.",
)


def check_far(values: Values, listen: TcpAddress, key: Key[Any]) -> None:
    """Looks at what an entry says about a listen address, that of ``key``, which other machines may reach."""
    if values.get(UNSAFE_LISTEN) is False:
        refused = Refused(
            ConfigCode.PLAINTEXT_LISTEN,
            f"{listen.host} is not a loopback address: whoever reaches it would speak with our identity",
            hint="use 127.0.0.1 or unix:PATH, or accept it with unsafe_plaintext_listen: true",
        )
        values.refuse(key, refused)
    if values.get(UIDS):
        refused = Refused(
            ConfigCode.UIDS_UNKNOWN,
            "the user of a client on another machine is not known",
            hint="remove uids, or listen on 127.0.0.1 or unix:PATH",
        )
        values.refuse(UIDS, refused)
