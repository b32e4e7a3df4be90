"""A program: a local server of server-sent events, one stream a connection, each event sent when it is due.

`/events` is a stream of `RATE` events a second until the client goes; anything else is answered like the web server does.
A thread a stream, because the timers of an event loop are too coarse for a thousand events a second.
"""

from __future__ import annotations

import json
import socketserver
import sys
import time
from typing import Final

from bench.processes import HOST

RATE: Final = 1_000
_STREAM: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_HELLO: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\nconnection: close\r\n\r\nhello, world\n"


class Stream(socketserver.StreamRequestHandler):
    """One connection, one request."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        """Reads the request's head and answers."""
        first = self.rfile.readline(8_192)
        while self.rfile.readline(8_192).strip():
            continue
        if not first.startswith(b"GET /events "):
            self.wfile.write(_HELLO)
            return
        self.wfile.write(_STREAM)
        try:
            self._send_events()
        except (BrokenPipeError, ConnectionResetError):
            return  # the client has seen enough

    def _send_events(self) -> None:
        start, number = time.monotonic(), 0
        while True:
            number += 1
            time.sleep(max(start + number / RATE - time.monotonic(), 0))
            event = b"data: %s\n\n" % json.dumps({"n": number, "sent": time.monotonic_ns()}).encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))


class Server(socketserver.ThreadingTCPServer):
    """On one port of the loopback interface."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


def main(argv: list[str]) -> int:
    """Serves until it is ended. The one argument is the port."""
    with Server((HOST, int(argv[0])), Stream) as server:
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
