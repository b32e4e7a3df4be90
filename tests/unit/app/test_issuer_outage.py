"""An issuer that is down for ten minutes, and for longer, with the lifetimes that are the default, by another clock.

One server is both ends: its entry "tools" gets tokens of an issuer and sends them to its own inbound entry, which checks
them with that issuer's keys. Its entry "direct" passes on whatever the agent brings.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
from cryptography import x509

from sidecar.app.status import Status
from tests.support import jwts
from tests.support.ca import DAY, Ca, der
from tests.support.clock import Shifted
from tests.support.eventually import soon
from tests.support.pair import LOOPBACK
from tests.support.processes import free_port
from tests.support.raw import RESET
from tests.support.server import OWN, Running, running
from tests.support.web import AUTHORITY, Web, hanging, https, page, read_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

AUDIENCE: Final = "https://tools.internal"
TTL: Final = 300
#: How far the clock is put forward between two requests, in seconds.
STRIDE: Final = 5.0
MINUTE: Final = 60.0


class FakeIssuer(Web):
    """Answers for metadata, keys and tokens; ``down``: resets whoever connects, as where nobody listens."""

    def __init__(self, shifted: Shifted, folder: Path) -> None:
        super().__init__(hanging, https())
        self.down = False
        self.attempts = 0
        self._shifted = shifted
        self._folder = folder
        self._said = b""

    @property
    def name(self) -> str:
        return self.url("")

    def minted(self, **said: Any) -> str:
        """A good token of now, with changes."""
        leaf = der(x509.load_pem_x509_certificate((self._folder / "tls.crt").read_bytes()))
        moment = int(self._shifted.clock.wall())
        good = {"iss": self.name, "aud": AUDIENCE, "iat": moment, "exp": moment + TTL}
        good["cnf"] = jwts.confirmation(hashlib.sha256(leaf).digest())
        return jwts.token(said=good | said).decode()

    def asked(self, path: str) -> int:
        return sum(request.split(b" ")[1].startswith(path.encode()) for request in self.requests)

    def _serve(self, sock: socket.socket) -> None:
        self.attempts += 1
        if self.down:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
            return
        super()._serve(sock)

    def _converse(self, sock: socket.socket) -> None:
        """Answers what was asked on this connection: keys and tokens are fetched at the same time."""
        request = read_request(sock)
        self.requests.append(request)
        self._respond(sock, request.split(b" ")[1].decode())

    def _respond(self, sock: socket.socket, path: str) -> None:
        body: dict[str, Any] = {"issuer": self.name, "token_endpoint": f"{self.name}/token"}
        if path == "/jwks":
            body = {"keys": [jwts.jwk(jwts.key().public_key(), alg="ES256")]}
        elif path == "/token":
            body = {"access_token": self.minted(), "token_type": "Bearer", "expires_in": TTL}
        sock.sendall(page(json.dumps(body).encode()))


class Scene:
    def __init__(self, running: Running, issuer: FakeIssuer, shifted: Shifted) -> None:
        self.running = running
        self.issuer = issuer
        self.shifted = shifted
        self.ports = {"tools": running.port("outbound"), "direct": 0}

    def later(self, seconds: float) -> None:
        self.shifted.wall += seconds
        self.shifted.monotonic += seconds

    async def ask(self, entry: str, token: str | None = None) -> tuple[int, str]:
        """The status, and the error that the answer names."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self.ports[entry])
        field = "" if token is None else f"Authorization: Bearer {token}\r\n"
        writer.write(f"GET / HTTP/1.1\r\nHost: localhost\r\n{field}Connection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        return status, "" if status == 200 else str(json.loads(body)["error"])

    def failed_tokens(self) -> float:
        return self._counted("tokens_refreshed_total", "mesh")

    def failed_keys(self) -> float:
        return self._counted("jwks_refreshed_total", "corp")

    def _counted(self, family: str, name: str) -> float:
        child = getattr(self.running.server.metrics, family).children.get((name, "issuer_unreachable"))
        return 0 if child is None else child.read()


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    shifted = Shifted()
    (folder / "issuer.pem").write_bytes(AUTHORITY.pem)
    with FakeIssuer(shifted, folder) as issuer:
        async with running(folder, clock=shifted.clock) as r:
            made = Scene(r, issuer, shifted)
            now = shifted.clock.wall()
            Ca(now=now).leaf(OWN, now=now, lifetime=DAY).write(folder)
            reach = {"issuer": issuer.name, "ca": "issuer.pem"}
            source = {"name": "mesh", "kind": "oauth2", "client_auth": "private_key_jwt", "client_id": "both"} | reach
            r.config["tokens"] = [source]
            r.config["issuers"] = [{"name": "corp", "jwks": f"{issuer.name}/jwks"} | reach]
            r.config["inbound"][0]["allow"][0]["token"] = {"issuer": "corp", "audience": AUDIENCE}
            entry = r.config["outbound"][0]
            made.ports["direct"] = free_port()
            r.config["outbound"].append(dict(entry, name="direct", listen=f"{LOOPBACK}:{made.ports['direct']}"))
            entry["token"] = "mesh"
            assert await r.reload()
            assert await made.ask("tools") == (200, "")
            assert (issuer.asked("/token"), issuer.asked("/jwks")) == (1, 1)
            yield made


@pytest.mark.threat(23)
async def test_threat_23_ten_minutes_without_an_issuer(tmp_path: Path) -> None:
    """The token serves to its end, then 503; the keys serve; the issuer is left in peace; all comes back."""
    async with scene(tmp_path) as s:
        s.issuer.down = True
        before = s.issuer.attempts
        answers = []
        for _ in range(int(10 * MINUTE / STRIDE)):
            s.later(STRIDE)
            answers.append(await s.ask("tools"))
            assert await s.ask("direct", s.issuer.minted()) == (200, "")
            assert Status(s.running.server).ready() is None
        served = answers.count((200, ""))
        assert answers == [(200, "")] * served + [(503, "token_unavailable")] * (len(answers) - served)
        assert TTL - 2 * STRIDE <= served * STRIDE <= TTL
        # From its refresh on, with pauses of 1 s to 60 s; and keys once in 10 s from the age of 5 minutes on.
        await soon(
            lambda: s.issuer.attempts - before == s.failed_tokens() + s.failed_keys(), "the last attempt to fail"
        )
        assert 8 <= s.failed_tokens() <= 25
        assert 20 <= s.failed_keys() <= 31
        (source,) = Status(s.running.server).tokens()["tokens"]
        assert source["tokens"][0]["error"] == "issuer_unreachable"

        s.issuer.down = False
        waited = 0
        while await s.ask("tools") != (200, ""):
            s.later(STRIDE)
            waited += 1
        assert waited * STRIDE <= MINUTE + STRIDE  # the longest pause
        assert s.issuer.asked("/token") == 2
        (source,) = Status(s.running.server).tokens()["tokens"]
        assert source["tokens"][0]["error"] is None


@pytest.mark.threat(23)
async def test_threat_23_keys_serve_for_an_hour_and_not_for_longer(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        s.issuer.down = True
        for _ in range(59):
            s.later(MINUTE)
            assert await s.ask("direct", s.issuer.minted()) == (200, "")
        s.later(2 * MINUTE)
        for _ in range(10):
            assert await s.ask("direct", s.issuer.minted()) == (503, "issuer_unavailable")
        moment = int(s.shifted.clock.wall())
        for bad in (
            "garbage",
            s.issuer.minted(exp=moment - 31, iat=moment - 300),
            s.issuer.minted(aud="https://elsewhere.example"),
            s.issuer.minted(iss="https://elsewhere.example"),
        ):
            assert await s.ask("direct", bad) == (401, "denied")
        s.issuer.down = False
        assert await s.ask("direct", s.issuer.minted()) == (503, "issuer_unavailable")  # within the interval
        s.later(10)
        assert await s.ask("direct", s.issuer.minted()) == (200, "")
        assert s.issuer.asked("/jwks") == 2
