"""Ensures that the server behind sees exactly one identity, the proven one, whatever the caller or the agent claims.

Every name that a server could read as ours (any case, ``_`` for ``-``, dots), twice, in trailers, named in ``Connection``;
from the agent through both sidecars, and from a caller straight at the inbound port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.processes import PLANNER, TOOLS

if TYPE_CHECKING:
    import http.client

    from tests.support.processes import Pair

EVIL = "spiffe://example.org/agent/root/1"
CLAIMS = [
    "x-forwarded-client-cert",
    "X-Forwarded-Client-Cert",
    "X_Forwarded_Client_Cert",
    "x-sidecar-caller",
    "X-SIDECAR-CALLER",
    "X_Sidecar_Caller",
    "x-sidecar.caller",
    "x-spiffe-id",
    "X-SPIFFE-ID",
    "X-Forwarded-For",
    "Forwarded",
    "X-Real-IP",
    "Via",
]


def send(connection: http.client.HTTPConnection, request: bytes) -> bytes:
    connection.connect()
    connection.sock.sendall(request)
    return bytes(connection.sock.recv(65536))


def requests() -> dict[str, bytes]:
    claims = "".join(f"{name}: By=x;URI={EVIL}\r\n" * 2 for name in CLAIMS).encode()
    host = b"Host: localhost\r\n"
    return {
        "fields": b"GET /claims-fields HTTP/1.1\r\n" + host + claims + b"\r\n",
        "connection": b"GET /claims-connection HTTP/1.1\r\n"
        + host
        + b"Connection: x-sidecar-caller, x-forwarded-client-cert, host, content-length\r\n"
        + claims
        + b"\r\n",
        "trailers": b"POST /claims-trailers HTTP/1.1\r\n"
        + host
        + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
        + claims
        + b"X-Harmless: 1\r\n\r\n",
    }


@pytest.mark.threat(14, 15)
@pytest.mark.parametrize("way", ["agent", "caller"])
@pytest.mark.parametrize("kind", ["fields", "connection", "trailers"])
def test_threat_14_15_the_server_sees_the_proven_identity_alone(shared: Pair, way: str, kind: str) -> None:
    site = shared.site
    connection = site.agent(shared.planner) if way == "agent" else site.caller(shared.tools.port())
    before = len(shared.backend.of(f"/claims-{kind}"))
    assert send(connection, requests()[kind]).startswith(b"HTTP/1.1 200 ")
    (request,) = shared.backend.of(f"/claims-{kind}")[before:]
    assert request.fields("x-sidecar-caller") == [PLANNER]
    (xfcc,) = request.fields("x-forwarded-client-cert")
    assert xfcc.startswith(f"By={TOOLS};Hash=")
    assert xfcc.endswith(f";URI={PLANNER}")
    assert EVIL.encode() not in request.head + request.trailers
    assert request.fields("host") == ["localhost"]
    names = [line.split(b":")[0].lower() for line in request.head.split(b"\r\n")[1:] if line]
    folded = [bytes(c if chr(c).isalnum() else 45 for c in name) for name in names]
    assert folded.count(b"x-sidecar-caller") == folded.count(b"x-forwarded-client-cert") == 1
    if kind == "trailers":
        assert request.trailers == b"X-Harmless: 1\r\n"
