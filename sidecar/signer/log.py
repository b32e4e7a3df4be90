"""What the service writes down: one JSON line for each use of the key, and for each peer that may not use it.

``{"time":"…","event":"sign","peer.pid":812,"peer.uid":0,"purpose":"tls13-certificate-verify","result":"ok",
"duration_ms":0.4,"key.protection":"tpm","pin":"sha256:…"}``

A purpose is null where no recogniser knew the message. Never the message or the signature: neither is anybody's business.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from sidecar.clock import Clock
    from sidecar.sockets import Peer

#: Lines about refused connections in a window. Whoever may connect could else push the uses out of the log.
REFUSED_BURST: Final = 10
WINDOW_SECONDS: Final = 10.0


class UseCode(StrEnum):
    """What becomes of a use or a connection beside what a device says; part of the log, never renamed."""

    OK = "ok"
    #: Whoever asked left before the device was reached.
    LEFT = "signer_peer_left"
    #: The peer runs as a uid that is not served.
    UID = "signer_peer_uid"
    #: All connections are taken, and each waits for the device.
    CONNECTIONS = "signer_connections"
    #: It asked again before it had read the answer.
    HURRY = "signer_peer_hurry"
    #: It began a request and did not end it in time.
    SLOW = "signer_peer_slow"


class Lines(Protocol):
    """As much of a `sidecar.telemetry.access_log.AccessLog` as is used here."""

    def add(self, line: bytes) -> None:
        """Takes a whole line."""

    def flush(self) -> None:
        """Hands on what was gathered."""


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What each line says of the key."""

    pin: str
    protection: str


class UseLog:
    """Not thread-safe: for the event loop's thread alone."""

    def __init__(self, lines: Lines, key: KeyFacts, clock: Clock) -> None:
        self._lines = lines
        self._key = key
        self._clock = clock
        self._window = float("-inf")
        self._written = 0
        self._left_out = 0

    def sign(self, peer: Peer, purpose: str | None, result: StrEnum, seconds: float) -> None:
        """Writes that a peer asked for a signature, and what became of it."""
        values: dict[str, object] = {"purpose": purpose, "result": str(result), "duration_ms": round(seconds * 1000, 3)}
        self._write("sign", peer, values)

    def refused(self, peer: Peer, result: StrEnum) -> None:
        """Writes that a connection was ended for its peer's fault; of many such only some, and how many were left out."""
        now = self._clock.monotonic()
        if now - self._window >= WINDOW_SECONDS:
            self._window, self._written = now, 0
        if self._written >= REFUSED_BURST:
            self._left_out += 1
            return
        self._written += 1
        values: dict[str, object] = {"result": str(result)}
        if self._left_out:
            values["left_out"] = self._left_out
        self._left_out = 0
        self._write("refused", peer, values)

    def _write(self, event: str, peer: Peer, values: dict[str, object]) -> None:
        moment = datetime.fromtimestamp(self._clock.wall(), tz=UTC)
        line = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "event": event,
            "peer.pid": peer.pid,
            "peer.uid": peer.uid,
            **values,
            "key.protection": self._key.protection,
            "pin": self._key.pin,
        }
        self._lines.add(json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n")
        self._lines.flush()  # somebody may be watching, and there are few
