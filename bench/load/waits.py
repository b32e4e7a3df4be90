"""A program: sends a small GET again and again on one open TLS connection, and says how long the answers took.

What holds the other side's event loop up shows as a long wait: some request is on its way, or was due, in any
millisecond.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.load.percentiles import percentile
from bench.load.tls import client_context, connect
from bench.processes import HOST

if TYPE_CHECKING:
    import ssl

#: Seconds between an answer and the next request: it leaves the cores to others.
PAUSE: Final = 0.001
#: What the local server answers; an answer is whole when it ends so.
END: Final = b"hello, world\n"


class WrongAnswerError(Exception):
    """An answer was not the one of the local server, or did not come."""


def main(argv: list[str] | None = None) -> int:
    """Prints a JSON object, or what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    for name in ("authority", "certificate", "key"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args(argv)
    context = client_context(args.authority, args.certificate, args.key)
    try:
        with connect(args.port) as plain, context.wrap_socket(plain) as secured:
            took = sorted(_waits(secured, args.port, args.seconds))
    except (OSError, WrongAnswerError) as error:
        print(f"waits failed: {type(error).__name__}: {error}")
        return 1
    shares = {"p50_ms": 0.5, "p99_ms": 0.99, "worst_ms": 1.0}
    print(json.dumps({"requests": len(took)} | {name: percentile(took, share) * 1e3 for name, share in shares.items()}))
    return 0


def _waits(secured: ssl.SSLSocket, port: int, seconds: float) -> list[float]:
    """Returns the seconds of each answer but the first.

    In TLS 1.3 our side of the handshake is over before the other side's is: the first answer waits for the rest of it.
    """
    request = b"GET / HTTP/1.1\r\nHost: %s:%d\r\n\r\n" % (HOST.encode(), port)
    _ask(secured, request)
    took, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        took.append(_ask(secured, request))
        time.sleep(PAUSE)
    return took


def _ask(secured: ssl.SSLSocket, request: bytes) -> float:
    sent = time.monotonic()
    secured.sendall(request)
    answer = b""
    while not answer.endswith(END):
        piece = secured.recv(65_536)
        answer += piece
        if not piece or not answer.startswith(b"HTTP/1.1 200"[: len(answer)]):
            raise WrongAnswerError(f"the answer is {answer[:40]!r}")
    return time.monotonic() - sent


if __name__ == "__main__":
    sys.exit(main())
