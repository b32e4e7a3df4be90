"""The section ``limits``: one key for each field of `sidecar.limits.Limits`, with the bounds of what makes sense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sidecar.config.faults import ConfigCode, Refused
from sidecar.config.kinds import duration, number, or_none, size, spell_size
from sidecar.config.schema import Key, Kind, Table, read_table
from sidecar.limits import Limits

if TYPE_CHECKING:
    from sidecar.config.schema import Spot

DEFAULTS: Final = Limits()

CONNECTIONS: Final = Key(
    "connections",
    number(1, 1_000_000),
    DEFAULTS.connections,
    "Open connections of callers, all inbound listeners together; and as many of the agent, all outbound ones together. One more is closed at once. Divided by `workers`.",
)
CONNECTIONS_PER_CALLER: Final = Key(
    "connections_per_caller",
    number(1, 1_000_000),
    DEFAULTS.connections_per_caller,
    "Open connections of one caller, by its SPIFFE ID, to all inbound listeners together. One more is closed when its handshake is done. Divided by `workers`.",
)
HANDSHAKES: Final = Key(
    "handshakes",
    number(1, 100_000),
    DEFAULTS.handshakes,
    "TLS handshakes in flight on inbound listeners. One more is taken, and the oldest is closed for it. Divided by `workers`.",
)
HANDSHAKE_QUEUE: Final = Key(
    "handshake_queue",
    number(1, 100_000),
    DEFAULTS.handshake_queue,
    "Steps of handshakes, of callers or of our own, that wait for the TPM, HSM or signer service with our key. One more: closed at once. Divided by `workers`.",
)
HEAD_BYTES: Final = Key(
    "head_bytes",
    size("1KiB", "1MiB"),
    DEFAULTS.head_bytes,
    "A message head, first byte to empty line. Over it: 431, close.",
)
TARGET_BYTES: Final = Key(
    "target_bytes", size("64B", "1MiB"), DEFAULTS.target_bytes, "The request target. Over it: 414, close."
)
FIELDS: Final = Key("fields", number(8, 10_000), DEFAULTS.fields, "Header fields of one message. Over it: 431, close.")
BODY_BYTES: Final = Key(
    "body_bytes",
    or_none(size("1B", "4096GiB")),
    DEFAULTS.body_bytes,
    "The body of a request; bodies are passed on as they come and never held. Over it: 413, close; cut where an answer began. A body that says its length is refused before anything is passed on.",
)
REQUESTS_PER_CONNECTION: Final = Key(
    "requests_per_connection",
    or_none(number(1, 1_000_000_000)),
    DEFAULTS.requests_per_connection,
    "Requests of one connection. The last is answered with `Connection: close`. A `CONNECT` is none of them, those inside are.",
)
REQUEST_RATE: Final = Key(
    "request_rate",
    or_none(number(1, 1_000_000)),
    DEFAULTS.request_rate,
    "Requests a second: of each caller, by its SPIFFE ID, to all inbound listeners together; and to each outbound entry. Over it: 429 with `Retry-After`, and the upstream learns nothing of it. Friction, no barrier. Each of several workers has its part of it.",
)
REQUEST_BURST: Final = Key(
    "request_burst",
    number(1, 1_000_000),
    DEFAULTS.request_burst,
    "Requests that may come at once before `request_rate` holds; so many are saved up in times of silence. Over it: 429, as there. Divided by `workers`.",
)
HANDSHAKE_TIMEOUT: Final = Key(
    "handshake_timeout",
    duration("100ms", "5m"),
    DEFAULTS.handshake_timeout,
    "From accept to the end of the TLS handshake. Over it: closed.",
)
SIGN_TIMEOUT: Final = Key(
    "sign_timeout",
    duration("50ms", "1m"),
    DEFAULTS.sign_timeout,
    "A signature of the TPM, HSM or signer service with our key. Over it: the handshake is refused, and `/ready` answers 503 until it signs again.",
)
HEAD_TIMEOUT: Final = Key(
    "head_timeout",
    duration("100ms", "5m"),
    DEFAULTS.head_timeout,
    "From a request head's first byte to its last. Over it: 408, close.",
)
IDLE_TIMEOUT: Final = Key(
    "idle_timeout",
    duration("100ms", "24h"),
    DEFAULTS.idle_timeout,
    "A keep-alive connection between two requests. Over it: closed.",
)
STALL_TIMEOUT: Final = Key(
    "stall_timeout",
    duration("100ms", "1h"),
    DEFAULTS.stall_timeout,
    "The window over which `min_rate` is measured. Who is slower: a sender 408, an upstream 504, each only before an answer began; else closed.",
)
MIN_RATE: Final = Key(
    "min_rate",
    size("1B", "1GiB"),
    DEFAULTS.min_rate,
    "Bytes a second that a body on its way to us, or a peer that reads what we write, makes on average.",
)
CONNECT_TIMEOUT: Final = Key(
    "connect_timeout",
    duration("100ms", "5m"),
    DEFAULTS.connect_timeout,
    "Dialling an upstream, TCP and TLS together. Over it: 504.",
)
UPSTREAM_TIMEOUT: Final = Key(
    "upstream_timeout",
    duration("100ms", "24h"),
    DEFAULTS.upstream_timeout,
    "From the end of a request to the head of its response. Over it: 504.",
)
UPSTREAM_IDLE_TIMEOUT: Final = Key(
    "upstream_idle_timeout",
    duration("100ms", "1h"),
    DEFAULTS.upstream_idle_timeout,
    "A pooled upstream connection that nobody uses. Over it: closed, nobody notices.",
)
STREAM_IDLE_TIMEOUT: Final = Key(
    "stream_idle_timeout",
    duration("1s", "24h"),
    DEFAULTS.stream_idle_timeout,
    "A response body that stays silent, such as server-sent events. Over it: the connection is cut.",
)
TOTAL_TIMEOUT: Final = Key(
    "total_timeout",
    duration("1s", "720h"),
    DEFAULTS.total_timeout,
    "A request, from its head to the end of its response, however much moves. Over it: 504; cut where an answer began.",
)
CONNECTION_LIFETIME: Final = Key(
    "connection_lifetime",
    duration("1s", "720h"),
    DEFAULTS.connection_lifetime,
    "A connection that carries requests, however busy; never longer than the certificates at its two ends. In the last tenth answers say `Connection: close`; over it: cut.",
)
TUNNEL_IDLE_TIMEOUT: Final = Key(
    "tunnel_idle_timeout",
    duration("1s", "24h"),
    DEFAULTS.tunnel_idle_timeout,
    "A tunnel (`tcp`) in which no byte moves in either direction. Over it: cut.",
)
TUNNEL_LIFETIME: Final = Key(
    "tunnel_lifetime",
    duration("1s", "720h"),
    DEFAULTS.tunnel_lifetime,
    "A tunnel (`tcp`), however busy; never longer than the certificates at its two ends. Over it: cut.",
)
UPSTREAM_CONNECTIONS: Final = Key(
    "upstream_connections",
    number(1, 1_000_000),
    DEFAULTS.upstream_connections,
    "Connections to the upstream of one entry. A request that would need one more waits for `connect_timeout`, then 503; a tunnel is cut. Divided by `workers`.",
)
UPSTREAM_WAITING: Final = Key(
    "upstream_waiting",
    number(1, 1_000_000),
    DEFAULTS.upstream_waiting,
    "Requests that wait for a connection to the upstream of one entry, where there are as many as may be. The oldest is served first. One more: 503. Divided by `workers`.",
)

LIMITS: Final = Table(
    "limits",
    (
        CONNECTIONS,
        CONNECTIONS_PER_CALLER,
        HANDSHAKES,
        HANDSHAKE_QUEUE,
        HEAD_BYTES,
        TARGET_BYTES,
        FIELDS,
        BODY_BYTES,
        REQUESTS_PER_CONNECTION,
        REQUEST_RATE,
        REQUEST_BURST,
        HANDSHAKE_TIMEOUT,
        SIGN_TIMEOUT,
        HEAD_TIMEOUT,
        IDLE_TIMEOUT,
        STALL_TIMEOUT,
        MIN_RATE,
        CONNECT_TIMEOUT,
        UPSTREAM_TIMEOUT,
        UPSTREAM_IDLE_TIMEOUT,
        STREAM_IDLE_TIMEOUT,
        TOTAL_TIMEOUT,
        CONNECTION_LIFETIME,
        TUNNEL_IDLE_TIMEOUT,
        TUNNEL_LIFETIME,
        UPSTREAM_CONNECTIONS,
        UPSTREAM_WAITING,
    ),
)


def _read(spot: Spot) -> Limits:
    values = read_table(spot, LIMITS)
    head, target = values.get(HEAD_BYTES), values.get(TARGET_BYTES)
    if head is not None and target is not None and target >= head:
        # Either may be the default; the fault goes to the one that the file has.
        key = TARGET_BYTES if TARGET_BYTES.name in values.spots else HEAD_BYTES
        values.refuse(
            key,
            Refused(
                ConfigCode.OUT_OF_RANGE,
                f"target_bytes ({spell_size(target)}) is not below head_bytes ({spell_size(head)})",
                hint="a head holds its target: raise head_bytes or lower target_bytes",
            ),
        )
    values.settle()
    found: dict[str, Any] = {key.name: values[key] for key in LIMITS.keys}
    return Limits(**found)


READ: Final = Kind(_read, "section", LIMITS)
