"""Somebody who speaks TLS without a sidecar: ``python -m sidecar.demo.tls_caller PORT CA [CERTIFICATE KEY [LEAKING]]``.

Dials a sidecar's inbound port, with a certificate or without one, sends a request and prints as one line of JSON what
came back: the status and body, or the TLS alert. ``LEAKING`` is the port of a server that gives tokens away: what it gives
goes along as this caller's own, and is never printed.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
from typing import Any

from sidecar.demo.ports import HOST
from sidecar.demo.stage import LEAK, TOOLS_HOST

_SECONDS = 8.0


def call(port: int, ca: str, credentials: list[str], token: str = "") -> dict[str, Any]:
    """One request over one connection, with the token if there is one."""
    # Not the project's own contexts: this plays a program that the project has no say in.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # noqa: TID251
    context.check_hostname = False  # the server has a SPIFFE ID and no host name
    context.load_verify_locations(ca)
    if credentials:
        context.load_cert_chain(*credentials)
    with socket.create_connection((HOST, port), timeout=_SECONDS) as plain:
        report: dict[str, Any] = {"addr": "{}:{}".format(*plain.getsockname())}
        try:
            with context.wrap_socket(plain) as tls:
                report |= {"version": tls.version()} | _request(tls, token)
        except ssl.SSLError as error:
            report["alert"] = error.reason
        except OSError as error:
            report["broken"] = type(error).__name__
    return report


def steal(port: int) -> str:
    """Takes a token from a server that gives it away."""
    connection = http.client.HTTPConnection(HOST, port, timeout=_SECONDS)
    try:
        connection.request("GET", LEAK)
        token = connection.getresponse().read().decode("ascii")
    finally:
        connection.close()
    if not token:
        sys.exit("there was no token to take")
    return token


def _request(tls: ssl.SSLSocket, token: str) -> dict[str, Any]:
    """Asks for the MCP endpoint. The server's verdict on our certificate comes with the first read (RFC 8446 4.4.2.4)."""
    lines = ["GET /mcp HTTP/1.1", f"Host: {TOOLS_HOST}", "Accept: text/event-stream"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    tls.sendall("\r\n".join([*lines, "", ""]).encode())
    response = http.client.HTTPResponse(tls)
    response.begin()
    challenge = response.headers["WWW-Authenticate"]
    return {"status": response.status, "challenge": challenge, "body": json.loads(response.read())}


if __name__ == "__main__":
    stolen = steal(int(sys.argv[5])) if len(sys.argv) > 5 else ""
    print(json.dumps(call(int(sys.argv[1]), sys.argv[2], sys.argv[3:5], stolen)))  # noqa: T201 - this is a program
