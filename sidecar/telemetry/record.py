"""One line of the access log, as values: what stays the same on a connection, and what happened once.

`docs/log.md` says what each field means. Attributes are the fields' names with ``_`` for ``.``; None is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sidecar.telemetry.text import quoted

if TYPE_CHECKING:
    from typing import TypeAlias

#: Text from the wire may come as the bytes it was: what is not UTF-8 is shown escaped.
Text: TypeAlias = "str | bytes"


class Event(StrEnum):
    """What a line tells."""

    #: A request came to its end: answered, denied, failed or cut. One for each.
    REQUEST = "request"
    #: A tunnel came to its end: the connection of a permitted caller or of the agent. One for each.
    TUNNEL = "tunnel"
    #: A request or tunnel has lived for ten seconds and goes on; its own line follows when it ends.
    OPEN = "open"
    #: A connection was closed before anything of it was passed on: handshake, identity, limits, a tunnel that is denied.
    REFUSED = "refused"
    #: A connection for requests was closed by a limit while no request was under way.
    CLOSED = "closed"
    #: The process serves.
    START = "start"
    #: A new configuration was taken; with ``error``, it was refused and the old one serves on.
    RELOAD = "reload"
    #: The process takes no new work.
    DRAIN = "drain"
    #: A worker process serves in the place of one that is gone; with ``error``, one is gone, or could not be started.
    WORKER = "worker"
    #: The last line.
    STOP = "stop"


class Decision(StrEnum):
    """Whether policy let it pass. A request that no policy was asked about has none."""

    ALLOW = "allow"
    DENY = "deny"


#: attribute -> field, in the order of the line; the rest of the line is written by `sidecar.telemetry.encode`.
CONTEXT_FIELDS: dict[str, str] = {
    "direction": "direction",
    "listener": "listener",
    "src_identity": "src.identity",
    "src_addr": "src.addr",
    "src_uid": "src.uid",
    "src_pid": "src.pid",
    "src_pin": "src.pin",
    "dst_identity": "dst.identity",
    "dst_addr": "dst.addr",
    "dst_name": "dst.name",
    "cert_serial": "cert.serial",
    "key_protection": "key.protection",
}


#: Those that are numbers.
_NUMBERS = frozenset(("src.uid", "src.pid"))


@dataclass(frozen=True, slots=True)
class Context:
    """Fields that many lines share, already encoded: made once for each connection."""

    json: str

    @classmethod
    def of(
        cls,
        *,
        direction: str | None = None,
        listener: str | None = None,
        src_identity: str | None = None,
        src_addr: str | None = None,
        src_uid: int | None = None,
        src_pid: int | None = None,
        src_pin: str | None = None,
        dst_identity: str | None = None,
        dst_addr: str | None = None,
        dst_name: Text | None = None,
        cert_serial: str | None = None,
        key_protection: str | None = None,
    ) -> Context:
        """Encodes the fields that are not None."""
        given = locals()
        return cls(
            "".join(
                f',"{name}":{given[attribute] if name in _NUMBERS else quoted(given[attribute])}'
                for attribute, name in CONTEXT_FIELDS.items()
                if given[attribute] is not None
            )
        )


@dataclass(slots=True)
class Record:
    """What happened once. ``contexts`` are the downstream connection's and, outbound, the upstream connection's.

    ``token`` is of `sidecar.telemetry.encode.token_part`. A field stands in one place only: ``dst_name`` here or in a context. ``time`` is in seconds since the epoch. ``http_path`` is as received,
    without its query; a query given all the same is cut off.
    """

    time: float
    event: Event
    contexts: tuple[Context, ...] = ()
    dst_name: Text | None = None
    http_method: Text | None = None
    http_path: Text | None = None
    http_status: int | None = None
    bytes_sent: int | None = None
    bytes_received: int | None = None
    duration_ms: float | None = None
    decision: Decision | None = None
    decision_rule: str | None = None
    decision_reason: str | None = None
    decision_id: str | None = None
    policy_version: str | None = None
    session_id: Text | None = None
    trace_id: Text | None = None
    token: str = ""
    incident: str | None = None
    error: str | None = None
