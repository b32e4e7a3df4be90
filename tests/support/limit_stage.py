"""A pair of sidecars whose limits change from test to test by a reload, and clients that see how a connection ends.

The side that has the limit is the one that its client speaks to: `inbound` is the tools' sidecar, reached as the planner
over TLS; `outbound` is the planner's, reached as the agent in plaintext. The other one has the defaults.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

from tests.support import raw
from tests.support.eventually import eventually
from tests.support.keyed import key_in_tpm
from tests.support.processes import LOOPBACK, SSLContext, inbound, outbound
from tests.support.wire import take_response

if TYPE_CHECKING:
    from tests.support.processes import Sidecar, Site
    from tests.support.swtpm import SlowRelay, Swtpm
    from tests.support.wire import Response

#: Spare connections go quickly, so that no row meets what another one left.
BASE = {"upstream_idle_timeout": "300ms"}
#: The entries of either side, by their place.
HTTP, TCP, TROUBLE, DEAF = range(4)
ANYBODY = [{"caller": "spiffe://example.org/agent/**"}]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def once(sock: socket.socket) -> None:
    """Answers one request of its connection, and hangs up when there is another one."""
    for answer in (OK, b""):
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            piece = sock.recv(65536)
            if not piece:
                return
            received += piece
        sock.sendall(answer)


class Deaf:
    """Accepts as the kernel does, and reads nothing."""

    def __init__(self) -> None:
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._sock.bind((LOOPBACK, 0))
        self._sock.listen(16)
        self.port: int = self._sock.getsockname()[1]

    def close(self) -> None:
        self._sock.close()


class Stage:
    """Both sidecars, and the servers behind them."""

    def __init__(self, site: Site, *, tpm: Swtpm | None = None, relay: SlowRelay | None = None) -> None:
        """``tpm``: the tools' key is in it, and the planner's sidecar is not there."""
        self.site, self.tpm, self.relay = site, tpm, relay
        self.backend = site.backend()
        self.once = raw.server(site, once)
        self.deaf = Deaf()
        site.owns(self.deaf.close)
        echo = raw.server(site)
        entries = [inbound("http", self.backend.port, ANYBODY)]
        entries.append(inbound("tcp", echo.port, ANYBODY) | {"forward": f"tcp://{LOOPBACK}:{echo.port}"})
        entries.append(inbound("trouble", self.once.port, ANYBODY))
        entries.append(inbound("deaf", self.deaf.port, ANYBODY))
        self.tools = site.sidecar("tools", inbound=entries, limits=BASE)
        for name in ("planner", "another"):
            site.identity(name)
        self.sidecars = {"inbound": self.tools}
        if tpm is not None:
            key_in_tpm(site, self.tools, tpm, relay=relay)
        else:
            self.sidecars["outbound"] = self._planner().launch()
        self.tools.start()
        for sidecar in self.sidecars.values():
            sidecar.await_ready()

    def _planner(self) -> Sidecar:
        ports = [self.tools.port(entry=place) for place in range(3)]
        entries = [outbound(name, port) for name, port in zip(("http", "tcp", "trouble"), ports, strict=True)]
        del entries[TCP]["hosts"]
        entries[TCP]["protocol"] = "tcp"
        return self.site.sidecar("planner", outbound=[*entries, outbound("deaf", self.deaf.port)], limits=BASE)

    def await_quiet(self) -> None:
        """Waits until nothing is open that another test has begun."""
        self.backend.release()
        eventually(lambda: self.backend.open == 0, "the backend to be left alone")
        eventually(lambda: len(self.once.ends) == self.once.connections, "the one that hangs up as well")
        for side, sidecar in self.sidecars.items():
            eventually(lambda: not sidecar.metric("connections", direction=side), f"nobody to be {side}")  # noqa: B023 - it waits here

    def limit(self, side: str, limits: dict[str, Any]) -> None:
        """Puts limits into force at one side, and the defaults at the other."""
        for each, sidecar in self.sidecars.items():
            wanted = BASE | (limits if each == side else {})
            if sidecar.config["limits"] != wanted:
                sidecar.config["limits"] = wanted
                sidecar.reload()


class Meeting:
    """A client of one side of the stage. Use as a context manager: its connections are closed at the end."""

    def __init__(self, stage: Stage, side: str) -> None:
        self.stage, self.side = stage, side
        self.sidecar = stage.sidecars[side]
        self.backend = stage.backend
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.backend.release()

    def hits(self, limit: str) -> float:
        return self.sidecar.metric("limit_hits_total", limit=limit)

    def raw(self, entry: int = HTTP) -> socket.socket:
        """A connection over which nothing was said yet."""
        sock = raw.connect(self.sidecar.port(self.side, entry))
        self._stack.callback(sock.close)
        return sock

    def client(self, entry: int = HTTP, name: str = "planner") -> socket.socket:
        """A connection as somebody with that identity, or as the agent."""
        sock = self.raw(entry)
        if self.side == "outbound":
            return sock
        site = self.stage.site
        context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # a SPIFFE ID is no host name
        context.load_verify_locations(cadata=site.ca.pem.decode())
        context.load_cert_chain(site.path(f"{name}.crt"), site.path(f"{name}.key"))
        proven = context.wrap_socket(sock, suppress_ragged_eofs=False)
        self._stack.callback(proven.close)
        return proven


def send(sock: socket.socket, line: str, *fields: str, body: bytes = b"") -> None:
    """Sends a request, given as ``GET /path`` and lines of fields."""
    head = "\r\n".join([f"{line} HTTP/1.1", "Host: tools.internal", *fields, "", ""])
    sock.sendall(head.encode() + body)


def answer(sock: socket.socket) -> Response:
    """Reads one response, behind which the connection goes on."""
    buffer = bytearray()
    while (found := take_response(buffer)) is None:
        piece = sock.recv(65536)
        assert piece, f"the connection ended after {bytes(buffer)!r}"
        buffer += piece
    assert not buffer
    return found


def asked(sock: socket.socket, line: str, *fields: str, body: bytes = b"") -> Response:
    """One request and its response."""
    send(sock, line, *fields, body=body)
    return answer(sock)


def end(sock: socket.socket, data: bytearray | None = None) -> str:
    """Reads to the end and says which it was.

    ``closed``: in order, over TLS with close_notify. ``cut``: over TLS, without, whichever way TCP ended, which Python does
    not always tell. ``reset``: in plaintext.
    """
    try:
        while piece := sock.recv(65536):
            if data is not None:
                data += piece
    except (ssl.SSLEOFError, ConnectionResetError):
        return "cut" if isinstance(sock, ssl.SSLSocket) else "reset"
    return "closed"


def seen(sock: socket.socket) -> str:
    """Reads to the end and says what came: `end`, and before it the status, as of half an answer where it was cut short."""
    data = bytearray()
    how = end(sock, data)
    if not data:
        return how
    status = data[9:12].decode()
    if take_response(data) is None:
        return f"half a {status}, {how}"
    assert not data
    return f"{status}, {how}"


def fill(sock: socket.socket, pause: float) -> None:
    """Sends until nobody has taken a byte for so many seconds."""
    sock.settimeout(pause)
    with suppress(TimeoutError):
        while True:
            sock.send(b"x" * 65536)
    sock.settimeout(raw.SECONDS)
