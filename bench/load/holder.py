"""A program: opens connections, one request on each, says so, and keeps them until its standard input ends.

It prints two JSON lines: how many it opened, and at the end how many of them the other side had closed meanwhile.
"""

from __future__ import annotations

import argparse
import json
import select
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.load.tls import client_context, connect
from bench.processes import HOST

if TYPE_CHECKING:
    import socket

    from bench.load.tls import SSLContext

REQUEST: Final = b"GET / HTTP/1.1\r\nHost: %s:%d\r\n\r\n"
#: What the local server answers; the connection is quiet when it has come.
END: Final = b"hello, world\n"


def main(argv: list[str] | None = None) -> int:
    """Opens and holds; plaintext unless a certificate is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    for name in ("authority", "certificate", "key"):
        parser.add_argument(f"--{name}", type=Path)
    args = parser.parse_args(argv)
    context = client_context(args.authority, args.certificate, args.key) if args.authority else None
    with ExitStack() as stack:
        try:
            held = [_open(stack, args.port, context) for _ in range(args.count)]
        except OSError as error:
            print(f"a connection to hold: {type(error).__name__}: {error}")
            return 1
        print(json.dumps({"open": len(held)}), flush=True)
        sys.stdin.read()
        print(json.dumps({"open": len(held), "closed": _closed(held)}), flush=True)
    return 0


def _open(stack: ExitStack, port: int, context: SSLContext | None) -> socket.socket:
    held = stack.enter_context(connect(port))
    if context is not None:
        held = stack.enter_context(context.wrap_socket(held))
    held.sendall(REQUEST % (HOST.encode(), port))
    answer = b""
    while not answer.endswith(END):
        piece = held.recv(65_536)
        if not piece:
            raise ConnectionError(f"closed after {answer[:40]!r}")
        answer += piece
    if not answer.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(f"the answer is {answer[:40]!r}")
    return held


def _closed(held: list[socket.socket]) -> int:
    """Counts what has become readable: nothing was asked, so it is an end."""
    poll = select.poll()
    for each in held:
        poll.register(each, select.POLLIN)
    return len(poll.poll(0))


if __name__ == "__main__":
    sys.exit(main())
