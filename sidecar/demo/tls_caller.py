"""Somebody who speaks TLS without a sidecar: ``python -m sidecar.demo.tls_caller PORT CA [CERTIFICATE KEY]``.

Dials a sidecar's inbound port, with a certificate or without one, sends a request and prints as one line of JSON what
came back: the status and body, or the TLS alert.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
from typing import Any

from sidecar.demo.ports import HOST
from sidecar.demo.stage import TOOLS_HOST

_SECONDS = 8.0


def call(port: int, ca: str, credentials: list[str]) -> dict[str, Any]:
    """One request over one connection."""
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
                report |= {"version": tls.version()} | _request(tls)
        except ssl.SSLError as error:
            report["alert"] = error.reason
        except OSError as error:
            report["broken"] = type(error).__name__
    return report


def _request(tls: ssl.SSLSocket) -> dict[str, Any]:
    """Asks for the MCP endpoint. The server's verdict on our certificate comes with the first read (RFC 8446 4.4.2.4)."""
    tls.sendall(f"GET /mcp HTTP/1.1\r\nHost: {TOOLS_HOST}\r\nAccept: text/event-stream\r\n\r\n".encode())
    response = http.client.HTTPResponse(tls)
    response.begin()
    return {"status": response.status, "body": json.loads(response.read())}


if __name__ == "__main__":
    print(json.dumps(call(int(sys.argv[1]), sys.argv[2], sys.argv[3:])))  # noqa: T201 - this is a program
