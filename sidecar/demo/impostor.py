"""Somebody who plays the tools: ``python -m sidecar.demo.impostor PORT CERTIFICATE KEY CA``.

A TLS server with a certificate of the right authority for the right SPIFFE ID, that counts what it gets to see of each
visitor and asks for a certificate as the real one does. Prints one line of JSON when it listens and one for each visitor.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
from dataclasses import asdict, dataclass

from sidecar.demo.ports import HOST

_SECONDS = 5.0


@dataclass(slots=True)
class Sighting:
    """What the impostor saw of one visitor.

    ``after_answer`` counts the bytes that came after its own certificate was out: a visitor's certificate would be among
    them. ``certificate`` is the visitor's SPIFFE ID, if it presented itself.
    """

    hello: int = 0
    answered: int = 0
    after_answer: int = 0
    finished: bool = False
    certificate: str | None = None


def meet(plain: socket.socket, context: ssl.SSLContext) -> Sighting:  # noqa: TID251 - takes one, makes none
    """Goes through a handshake by hand, as far as the visitor goes along."""
    sighting = Sighting()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    try:
        while not sighting.finished:
            try:
                tls.do_handshake()
                sighting.finished = True
                sighting.certificate = _spiffe_id(tls)
            except ssl.SSLWantReadError:
                if pending := outgoing.read():
                    plain.sendall(pending)
                    sighting.answered += len(pending)
                data = plain.recv(16 * 1024)
                if not data:
                    break
                incoming.write(data)
                if sighting.answered:
                    sighting.after_answer += len(data)
                else:
                    sighting.hello += len(data)
    except OSError:  # a TLS failure is one, too: the visitor went away
        return sighting
    return sighting


def _spiffe_id(tls: ssl.SSLObject) -> str | None:
    names = (tls.getpeercert() or {}).get("subjectAltName", ())
    return next((str(name[1]) for name in names if name[0] == "URI"), None)


def serve(port: int, certificate: str, key: str, ca: str) -> None:
    """Meets one visitor after the other, until the process is ended."""
    # Not the project's own contexts: this plays a program that the project has no say in.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # noqa: TID251
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server((HOST, port)) as listener:
        print(json.dumps({"event": "listening"}), flush=True)  # noqa: T201 - this is a program
        while True:
            plain, address = listener.accept()
            with plain:
                plain.settimeout(_SECONDS)
                sighting = meet(plain, context)
            visitor = {"event": "visitor", "addr": f"{address[0]}:{address[1]}"}
            print(json.dumps(visitor | asdict(sighting)), flush=True)  # noqa: T201 - this is a program


if __name__ == "__main__":
    serve(int(sys.argv[1]), *sys.argv[2:5])
