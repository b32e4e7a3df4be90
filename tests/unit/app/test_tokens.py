"""Tokens across reloads: what goes on, what is renewed without anybody waiting, and what ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.clock import Clock
from sidecar.tokens.sources import make as module
from tests.support.ca import Ca, keypair
from tests.support.eventually import soon
from tests.support.leases import CANARY, Scripted, down
from tests.support.pair import LOOPBACK, Upstream
from tests.support.relay import held
from tests.support.server import OWN, Running, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.tokens.settings import SourceSettings
    from sidecar.tokens.sources.source import Means

AUDIENCE = "https://tools.example.org"
MESH = {"name": "mesh", "kind": "self-signed", "audience": AUDIENCE}
FROM_FILE = {"name": "mesh", "kind": "file", "path": "token"}
UNBOUND = {
    "name": "mesh",
    "kind": "oauth2",
    "issuer": "https://issuer.example",
    "client_auth": "private_key_jwt",
    "bound": False,
}


class Sources:
    """Every source that the server makes, in their order; ``closed``: the next ones do not answer yet."""

    def __init__(self) -> None:
        self.made: list[Scripted] = []
        self.closed = False

    def make(self, settings: SourceSettings, means: Means) -> Scripted:
        source = Scripted(Clock(), bound=settings.kind == "self-signed")
        if self.closed:
            source.gate.clear()
        self.made.append(source)
        return source

    @property
    def fetches(self) -> list[int]:
        return [source.fetches for source in self.made]


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sources]:
    found = Sources()
    monkeypatch.setattr(module, "make", found.make)
    yield found
    for source in found.made:
        source.gate.set()


async def start(r: Running, source: dict[str, Any] = MESH) -> None:
    """Gives the outbound entry a token."""
    r.config["tokens"] = [dict(source)]
    r.config["outbound"][0]["token"] = "mesh"
    assert await r.reload()


async def ask(r: Running) -> bytes:
    reader, writer = await asyncio.open_connection(LOOPBACK, r.port("outbound"))
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


def renew(r: Running, *, ca: Ca | None = None, key: str = "another") -> None:
    """Has another certificate issued for our name; ``key`` names its key."""
    now = Clock().wall()
    (ca or Ca(now=now)).leaf(OWN, now=now, key=keypair(key)).write(r.folder)


def lanes(r: Running) -> Any:
    return r.server.generation.tokens.lanes["tools"]


async def test_a_reload_that_changes_nothing_keeps_the_token(tmp_path: Path, sources: Sources) -> None:
    async with running(tmp_path) as r:
        await start(r)
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        before, lease = lanes(r), lanes(r).present.lease
        assert await r.reload()
        assert lanes(r) is before
        assert lanes(r).present.lease is lease
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        assert sum(sources.fetches) == 1


async def test_a_renewed_certificate_keeps_nobody_waiting(tmp_path: Path, sources: Sources) -> None:
    async with running(tmp_path) as r:
        await start(r)
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        old = lanes(r).present
        sources.closed = True
        renew(r)
        assert await r.reload()
        new = lanes(r).present
        assert new is not old
        for _ in range(5):
            assert (await ask(r)).startswith(b"HTTP/1.1 200")
        assert sources.fetches == [1, 1]
        assert not old.pool.retired
        sources.made[1].gate.set()
        await soon(lambda: new.lease.current() is not None, "the token for the new certificate")
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        assert old.pool.retired
        await soon(lambda: sources.made[0].revoked == [f"{CANARY}-1"], "the old token is revoked")
        assert r.server.generation.tokens.lanes["tools"].before is None


async def test_two_renewals_in_a_row(tmp_path: Path, sources: Sources) -> None:
    async with running(tmp_path) as r:
        await start(r)
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        first = lanes(r).present
        sources.closed = True
        for key in ("another", "a third"):
            renew(r, key=key)
            assert await r.reload()
            assert (await ask(r)).startswith(b"HTTP/1.1 200")
            assert lanes(r).before is first
        sources.made[-1].gate.set()
        await soon(lambda: lanes(r).present.lease.current() is not None, "the token")
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        assert first.pool.retired
        sources.made[1].gate.set()  # the one in between comes too late for anybody
        await soon(lambda: sources.made[1].revoked, "it is revoked")


async def test_a_reload_for_another_reason_while_the_old_certificate_serves_on(
    tmp_path: Path, sources: Sources
) -> None:
    async with running(tmp_path) as r:
        await start(r)
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        sources.closed = True
        renew(r)
        assert await r.reload()
        r.config["drain_timeout"] = "2s"
        assert await r.reload()
        assert lanes(r).before is not None
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        sources.made[-1].gate.set()
        await soon(lambda: lanes(r).present.lease.current() is not None, "the token")
        assert (await ask(r)).startswith(b"HTTP/1.1 200")


async def test_back_to_the_old_certificate(tmp_path: Path, sources: Sources) -> None:
    async with running(tmp_path) as r:
        await start(r)
        old = (tmp_path / "tls.crt").read_bytes(), (tmp_path / "tls.key").read_bytes()
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        for _ in range(2):
            renew(r)
            assert await r.reload()
            assert (await ask(r)).startswith(b"HTTP/1.1 200")
            await soon(lambda: lanes(r).present.lease.current() is not None, "the token")
            assert (await ask(r)).startswith(b"HTTP/1.1 200")
            (tmp_path / "tls.crt").write_bytes(old[0])
            (tmp_path / "tls.key").write_bytes(old[1])
            assert await r.reload()
            assert (await ask(r)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("what", ["pins", "place", "authority", "source", "resumption"])
async def test_what_was_taken_away_serves_no_more(tmp_path: Path, sources: Sources, what: str) -> None:
    async with running(tmp_path) as r:
        await start(r)
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        old = lanes(r).present
        if what == "authority":
            stranger = Ca(now=Clock().wall(), key="stranger")
            (tmp_path / "ca.crt").write_bytes(stranger.pem)
            renew(r, ca=stranger)
        else:
            renew(r)
        if what == "pins":
            r.config["outbound"][0]["pins"] = ["sha256:" + "A" * 43 + "="]
        elif what == "place":
            (tmp_path / "tls.key").rename(tmp_path / "moved.key")
            r.config["identity"]["key"] = "moved.key"
        elif what == "source":
            r.config["tokens"][0]["audience"] = "https://another.example.org"
        elif what == "resumption":
            r.config["resumption"] = "never"
        sources.closed = True
        assert await r.reload()
        assert lanes(r).before is None
        assert old.pool.retired
        await soon(lambda: sources.made[0].revoked, "the old token is revoked")
        waiting = asyncio.get_running_loop().create_task(ask(r))
        await soon(lambda: sources.made[-1].fetches == 1, "the request asks for a new token")
        sources.made[-1].gate.set()
        assert (await waiting).startswith(b"HTTP/1.1 200" if what != "pins" else b"HTTP/1.1 502")


async def test_a_token_that_is_bound_to_nothing_survives_the_certificate(tmp_path: Path, sources: Sources) -> None:
    async with running(tmp_path) as r:
        await start(r, UNBOUND)
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        lease = lanes(r).present.lease
        renew(r)
        assert await r.reload()
        assert lanes(r).present.lease is lease
        assert lanes(r).before is None
        assert lease.source is sources.made[1]  # it asks in the name of the new certificate
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        assert sources.fetches == [1, 0]


async def test_a_file_that_changes_after_a_reload_is_noticed_all_the_same(tmp_path: Path) -> None:
    upstream = Upstream()
    token = tmp_path / "token"
    token.write_text("first-token")
    async with running(tmp_path, upstream) as r:
        await start(r, FROM_FILE)
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        r.config["drain_timeout"] = "2s"
        assert await r.reload()
        renew(r)
        assert await r.reload()
        lease = lanes(r).present.lease
        (tmp_path / "new").write_text("second-token")
        (tmp_path / "new").replace(token)
        lease._looked -= 10  # as if nobody had asked for a while
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        assert b"second-token" in upstream.heads[-1]
        token.unlink()
        lease._looked -= 10
        assert b"token_unavailable" in await ask(r)
        assert b"second-token" in upstream.heads[-1]


async def test_an_authority_that_is_removed_later_ends_the_old_certificate_too(
    tmp_path: Path, sources: Sources
) -> None:
    now = Clock().wall()
    second, peers = Ca(now=now, key="second"), Ca("peers.example", now=now)
    async with running(tmp_path) as r:
        first = (tmp_path / "ca.crt").read_bytes()
        (tmp_path / "peers.crt").write_bytes(peers.pem)
        (tmp_path / "ca.crt").write_bytes(first + second.pem)
        # The peer is of another domain, or the change of ours would end the connections by itself.
        r.config["identity"]["trust"]["peers.example"] = "peers.crt"
        r.config["outbound"][0]["peer"] = "spiffe://peers.example/agent/tools/*"
        await start(r)
        await lanes(r).present.lease.obtain()
        old = lanes(r).present
        sources.closed = True
        renew(r, ca=second)
        assert await r.reload()
        assert lanes(r).before is old
        r.config["drain_timeout"] = "2s"
        assert await r.reload()  # for another reason: it goes on
        assert lanes(r).before is old
        (tmp_path / "ca.crt").write_bytes(second.pem)
        assert await r.reload()
        assert lanes(r).before is None
        assert old.pool.retired


async def test_looking_at_what_to_go_on_with_fetches_nothing(tmp_path: Path, sources: Sources) -> None:
    async with running(tmp_path) as r:
        await start(r)
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        lease = lanes(r).present.lease
        lease._credential = replace(lease._credential, refresh=0.0)
        assert await r.reload()
        renew(r)
        assert await r.reload()
        assert sources.made[0].fetches == 1


async def test_threads_of_issuers_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        for number in range(5):
            await start(r, UNBOUND | {"issuer": f"https://issuer{number}.example"})
        assert set(r.server.hub._issuers) == {("tokens", "https://issuer4.example")}


@pytest.mark.parametrize("after", ["another", "none", "first"])
async def test_a_reload_while_a_request_dials_decides_about_its_token(
    tmp_path: Path, sources: Sources, after: str
) -> None:
    """Whichever token the entry has when the connection stands goes along, and no other."""
    upstream = Upstream()
    async with running(tmp_path, upstream) as r, held(r.port("inbound")) as relay:
        r.config["outbound"][0]["connect"] = f"{LOOPBACK}:{relay.port}"
        if after == "first":
            assert await r.reload()
        else:
            await start(r)
        relay.hold()
        waiting = asyncio.get_running_loop().create_task(ask(r))
        await soon(lambda: relay.waiting, "the request to dial")
        if after == "none":
            del r.config["outbound"][0]["token"]
        else:
            r.config["tokens"] = [MESH | {"name": "other", "audience": "https://other.example.org"}]
            r.config["outbound"][0]["token"] = "other"
        assert await r.reload()
        relay.let_go()
        assert (await waiting).startswith(b"HTTP/1.1 200")
        (head,) = upstream.heads
        sent = [line for line in head.split(b"\r\n") if line.lower().startswith(b"authorization:")]
        assert len(sent) == (0 if after == "none" else 1)
        if after != "none":
            assert sources.made[-1].fetches == 1
        if after == "another":
            await soon(lambda: sources.made[0].revoked == [f"{CANARY}-1"], "the old token is revoked")


async def test_a_removed_entry_takes_its_token_with_it(tmp_path: Path, sources: Sources) -> None:
    async with running(tmp_path) as r:
        await start(r)
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        r.config["outbound"] = []
        assert await r.reload()
        await soon(lambda: sources.made[0].revoked == [f"{CANARY}-1"], "the revocation")


async def test_the_drain_takes_all_tokens_with_it(tmp_path: Path, sources: Sources) -> None:
    async with running(tmp_path) as r:
        await start(r)
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
    assert sources.made[0].revoked == [f"{CANARY}-1"]


async def test_an_issuer_that_hangs_does_not_hold_up_the_end(
    tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.app.tokens.REVOKE_SECONDS", 0.05)
    async with running(tmp_path) as r:
        await start(r)
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        sources.made[0].gate.clear()
    assert sources.made[0].revoked == []


async def test_a_refused_reload_leaves_the_token_alone(tmp_path: Path, sources: Sources) -> None:
    async with running(tmp_path) as r:
        await start(r)
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        before = lanes(r)
        renew(r)
        r.config["health"] = {"listen": f"{LOOPBACK}:0"}
        assert not await r.reload()
        assert lanes(r) is before
        assert before.before is None
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        assert sources.made[0].revoked == []


async def test_what_operators_see(tmp_path: Path, sources: Sources) -> None:
    async with running(tmp_path) as r:
        await start(r, MESH | {"helper": True})
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        from sidecar.app.status import Status

        status = Status(r.server)
        (source,) = status.tokens()["tokens"]
        (token,) = source.pop("tokens")
        assert (source.pop("helper_refreshed"), source.pop("helper_error")) == (None, None)
        assert source == {"name": "mesh", "kind": "self-signed", "audience": AUDIENCE, "scopes": [], "helper": True}
        assert token["entry"] == "tools"
        assert token["binding"] == "bound"
        assert token["error"] is None
        metrics = status.metrics().decode()
        assert 'sidecar_token_age_seconds{entry="tools",source="mesh"}' in metrics
        assert 'sidecar_tokens_refreshed_total{result="ok",source="mesh"} 1.0' in metrics
        assert CANARY not in repr(status.tokens()) + repr(status.config()) + metrics
        for made in sources.made:
            made.failing = down()
        r.server.generation.tokens.lanes["tools"].present.lease._credential = None
        assert b"token_unavailable" in await ask(r)
        (source,) = status.tokens()["tokens"]
        assert source["tokens"][0]["error"] == "issuer_unreachable"


async def test_the_keys_of_an_issuer_are_kept_and_what_they_proved_as_well(tmp_path: Path) -> None:
    issuer = {"name": "corp", "issuer": "https://issuer.example", "jwks": "https://issuer.example/jwks"}
    async with running(tmp_path) as r:
        r.config["issuers"] = [issuer]
        r.config["inbound"][0]["allow"][0]["token"] = {"issuer": "corp", "audience": AUDIENCE}
        assert await r.reload()
        parts = r.server.generation.tokens
        (keys,) = parts.keys.values()
        judge = parts.judge
        assert judge is not None
        r.config["drain_timeout"] = "2s"
        assert await r.reload()
        again = r.server.generation.tokens
        assert list(again.keys.values()) == [keys]
        assert again.judge is not None
        assert again.judge.memory is judge.memory
        assert again.leaves["tools"] is parts.leaves["tools"]
        r.config["issuers"] = [issuer | {"algorithms": ["ES384"]}]
        assert await r.reload()
        changed = r.server.generation.tokens
        assert changed.judge is not None
        assert changed.judge.memory is not judge.memory  # it was filled by other rules
        assert list(changed.keys.values()) != [keys]
