"""A program: opens TLS connections one after the other, for some seconds, and says how many.

``handshake``: a full handshake and nothing else. ``full``: a full handshake and one request. ``resumed``: the handshake
resumes the session of the connection before, and one request.
"""

from __future__ import annotations

import argparse
import json
import ssl
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.load.tls import client_context, connect
from bench.processes import HOST

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from bench.load.tls import SSLContext

REQUEST: Final = b"GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % HOST.encode()


class WrongAnswerError(Exception):
    """The other side did not do what it was to do."""


def main(argv: list[str] | None = None) -> int:
    """Runs for the time it is told; the last line it prints is a JSON object, or what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("handshake", "full", "resumed"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    for name in ("authority", "certificate", "key"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args(argv)
    context = client_context(args.authority, args.certificate, args.key)
    try:
        count, resumed = _open(context, args.port, args.mode, time.monotonic() + args.seconds)
    except (OSError, WrongAnswerError) as error:
        print(f"{args.mode}: {type(error).__name__}: {error}")
        return 1
    print(json.dumps({"connections": count, "resumed": resumed}))
    return 0


def _open(context: SSLContext, port: int, mode: str, until: float) -> tuple[int, int]:
    session: ssl.SSLSession | None = None
    count = resumed = 0
    while time.monotonic() < until:
        with connect(port) as plain:
            if mode == "handshake":
                shake(context, plain)
            else:
                with context.wrap_socket(plain, session=session) as secured:
                    _ask(secured)
                    resumed += bool(secured.session_reused)
                    session = secured.session if mode == "resumed" else None
        count += 1
    expected = count - 1 if mode == "resumed" else 0
    if resumed != expected:
        raise WrongAnswerError(f"{resumed} of {count} connections were resumed, not {expected}")
    return count, resumed


def shake(context: SSLContext, plain: socket.socket) -> None:
    """Shakes hands, says goodbye, and reads to the end: only then it is sure that our certificate was not refused.

    In TLS 1.3 the client's side of a handshake is over before the server has looked at the certificate; a refusal comes
    as an alert afterwards (RFC 8446 4.4.2.4 and appendix E.1.2), which is an SSLError here. `SSLSocket.unwrap` would
    lose it.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = context.wrap_bio(incoming, outgoing)
    _drive(secured.do_handshake, plain, incoming, outgoing)
    try:
        secured.unwrap()
    except ssl.SSLWantReadError:
        plain.sendall(outgoing.read())
    while piece := plain.recv(65_536):
        incoming.write(piece)
        try:
            while secured.read(65_536):
                continue
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            continue


def _drive(step: Callable[[], None], plain: socket.socket, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
    """Takes a step until it needs nothing more from the other side."""
    while True:
        try:
            step()
        except ssl.SSLWantReadError:
            plain.sendall(outgoing.read())
            piece = plain.recv(65_536)
            if not piece:
                raise WrongAnswerError("the connection ended within the handshake") from None
            incoming.write(piece)
        else:
            plain.sendall(outgoing.read())
            return


def _ask(secured: ssl.SSLSocket) -> None:
    secured.sendall(REQUEST)
    answer = b"".join(iter(lambda: secured.recv(65_536), b""))
    if not answer.startswith(b"HTTP/1.1 200"):
        raise WrongAnswerError(f"the answer is {answer[:40]!r}")


if __name__ == "__main__":
    sys.exit(main())
