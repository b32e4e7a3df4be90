"""A program: sends small GETs at a fixed rate and measures each from the moment at which it was due.

Measured from the moment of sending, a stall would delay the requests behind it without showing in their latencies. The
connections are kept; a request that is due while all are busy waits, and its wait counts.
"""

from __future__ import annotations

import argparse
import json
import select
import sys
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bench.load.percentiles import percentile
from bench.load.tls import connect
from bench.processes import HOST

if TYPE_CHECKING:
    import socket

#: What the local server answers; an answer is whole when it ends so.
END: Final = b"hello, world\n"
#: Seconds for the last answers.
_GRACE: Final = 5.0


class WrongAnswerError(Exception):
    """An answer was not the one of the local server, or did not come."""


@dataclass(slots=True)
class Pacer:
    """Sends on the first free connection; ``latencies`` are seconds."""

    request: bytes
    free: deque[socket.socket]
    latencies: list[float] = field(default_factory=list)
    _busy: dict[socket.socket, tuple[float, bytes]] = field(default_factory=dict)

    def run(self, rate: float, seconds: float) -> None:
        """Sends ``rate`` requests a second for that long, then waits for the last answers."""
        start, total, sent = time.monotonic(), round(rate * seconds), 0
        while len(self.latencies) < total:
            now = time.monotonic()
            if now > start + seconds + _GRACE:
                raise WrongAnswerError(f"{total - len(self.latencies)} of {total} requests were not answered in time")
            while sent < total and self.free and start + sent / rate <= now:
                self._send(start + sent / rate)
                sent += 1
            due = start + sent / rate - time.monotonic() if sent < total and self.free else _GRACE
            self._receive(max(due, 0.0))

    def _send(self, due: float) -> None:
        connection = self.free.popleft()
        connection.sendall(self.request)
        self._busy[connection] = (due, b"")

    def _receive(self, wait: float) -> None:
        # select takes microseconds where epoll of this Python takes milliseconds, and there are few connections.
        for connection in select.select(list(self._busy), [], [], wait)[0]:
            due, answer = self._busy[connection]
            piece = connection.recv(65_536)
            answer += piece
            if not piece or not answer.startswith(b"HTTP/1.1 200"[: len(answer)]):
                raise WrongAnswerError(f"the answer is {answer[:40]!r}")
            if answer.endswith(END):
                self.latencies.append(time.monotonic() - due)
                del self._busy[connection]
                self.free.append(connection)
            else:
                self._busy[connection] = (due, answer)


def main(argv: list[str] | None = None) -> int:
    """Prints percentiles in milliseconds as a JSON object, or what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, default=32)
    args = parser.parse_args(argv)
    request = b"GET / HTTP/1.1\r\nHost: %s:%d\r\n\r\n" % (HOST.encode(), args.port)
    try:
        with ExitStack() as stack:
            pacer = Pacer(request, deque(stack.enter_context(connect(args.port)) for _ in range(args.connections)))
            pacer.run(args.rate, args.seconds)
    except (OSError, WrongAnswerError) as error:
        print(f"paced failed: {type(error).__name__}: {error}")
        return 1
    rising = sorted(latency * 1e3 for latency in pacer.latencies)
    shares = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}
    print(json.dumps({"requests": len(rising)} | {name: percentile(rising, share) for name, share in shares.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
