"""An issuer's keys: one fetch in an interval, kept while it is down, given up when they are too old."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.telemetry.metrics import Metrics
from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.issuer.answer import Answer
from sidecar.tokens.issuer.jwks import IssuerKeys
from sidecar.tokens.settings import Issuer
from tests.support.clock import Shifted
from tests.support.eventually import soon
from tests.support.leases import tools_for, waiter

if TYPE_CHECKING:
    from pathlib import Path

URL = "https://issuer.example/jwks"


def key_set(*kids: str) -> bytes:
    keys = [
        jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
        | {"kid": kid}
        for kid in kids
    ]
    return json.dumps({"keys": keys}).encode()


@dataclass
class FakeClient:
    """Stands for the issuer, which a test has to be able to keep from answering."""

    body: bytes = field(default_factory=lambda: key_set("one"))
    status: int = 200
    failing: Exception | None = None
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def get(self, url: str, *, accept: str) -> Answer:
        assert "application/jwk-set+json" in accept
        self.asked.append(url)
        await self.gate.wait()
        if self.failing is not None:
            raise self.failing
        return Answer(self.status, "application/json", self.body)


@dataclass
class Scene:
    keys: IssuerKeys
    client: FakeClient
    shifted: Shifted
    metrics: Metrics
    said: Path

    def counted(self, result: str) -> float:
        child = self.metrics.jwks_refreshed_total.children.get(("corp", result))
        return 0 if child is None else child.read()


@pytest.fixture
async def scene(tmp_path: Path) -> Scene:
    client, shifted, metrics, said = FakeClient(), Shifted(), Metrics(), tmp_path / "said"
    client.gate.set()
    settings = Issuer("corp", "https://issuer.example", URL)
    untyped: Any = client
    return Scene(IssuerKeys(settings, untyped, tools_for(shifted.clock, metrics, said)), client, shifted, metrics, said)


async def test_nothing_is_fetched_before_a_token_needs_it(scene: Scene) -> None:
    assert scene.keys.current() is None
    assert scene.keys.may_refresh()
    await asyncio.sleep(0)
    assert scene.client.asked == []


async def test_those_who_wait_make_one_fetch_of_the_configured_url(scene: Scene) -> None:
    scene.client.gate.clear()
    waiting = [waiter(scene.keys.refreshed()) for _ in range(50)]
    await soon(lambda: scene.client.asked, "the fetch")
    scene.client.gate.set()
    await asyncio.gather(*waiting)
    assert scene.client.asked == [URL]
    keys = scene.keys.current()
    assert keys is not None
    assert len(keys.find("one", "ES256")) == 1
    assert scene.counted("ok") == 1
    assert scene.keys.status() == {"issuer": "corp", "keys": 1, "age_seconds": pytest.approx(0, abs=5), "error": None}


@pytest.mark.threat(23)
async def test_threat_23_however_many_ask_there_is_one_fetch_in_an_interval(scene: Scene) -> None:
    await scene.keys.refreshed()
    for _ in range(1000):  # a flood of unknown key ids
        assert not scene.keys.may_refresh()
        await scene.keys.refreshed()
    assert len(scene.client.asked) == 1
    scene.shifted.monotonic += 10
    assert scene.keys.may_refresh()
    for _ in range(1000):
        await scene.keys.refreshed()
    assert len(scene.client.asked) == 2


async def test_keys_are_renewed_behind_the_back_of_those_who_use_them(scene: Scene) -> None:
    await scene.keys.refreshed()
    first = scene.keys.current()
    scene.client.body = key_set("two")
    scene.shifted.monotonic += 301
    assert scene.keys.current() is first
    await soon(lambda: scene.keys.current() is not first, "the new keys")
    renewed = scene.keys.current()
    assert renewed is not None
    assert first is not None
    assert renewed.version != first.version
    assert renewed.find("one", "ES256") == []
    assert "other keys" in scene.said.read_text()


async def test_equal_keys_are_the_same_version(scene: Scene) -> None:
    await scene.keys.refreshed()
    first = scene.keys.current()
    scene.shifted.monotonic += 301
    await scene.keys.refreshed()
    again = scene.keys.current()
    assert first is not None
    assert again is not None
    assert again.version == first.version
    assert "other keys" not in scene.said.read_text()


@pytest.mark.threat(23)
@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        ({"failing": SourceError(SourceCode.UNREACHABLE, "nobody there")}, "issuer_unreachable"),
        ({"failing": SourceError(SourceCode.TIMEOUT, "too slow")}, "issuer_timeout"),
        ({"failing": RuntimeError("a defect")}, "issuer_bad_answer"),
        ({"status": 500}, "issuer_status"),
        ({"status": 302}, "issuer_status"),
        ({"body": b"<html>"}, "issuer_bad_answer"),
        ({"body": b"[]"}, "issuer_bad_answer"),
        ({"body": b"{}"}, "issuer_bad_answer"),
        ({"body": b'{"keys":[]}'}, "issuer_bad_answer"),
        ({"body": b""}, "issuer_bad_answer"),
    ],
)
async def test_threat_23_the_last_good_keys_serve_for_a_bounded_time(
    scene: Scene, trouble: dict[str, Any], code: str
) -> None:
    await scene.keys.refreshed()
    good = scene.keys.current()
    for name, value in trouble.items():
        setattr(scene.client, name, value)
    for _ in range(11):
        scene.shifted.monotonic += 310
        assert scene.keys.current() is good
        await scene.keys.refreshed()
    assert scene.counted(code) == 11
    assert scene.keys.status()["error"] == code
    scene.shifted.monotonic += 300
    assert scene.keys.current() is None  # older than jwks_max_age
    scene.client.failing, scene.client.status, scene.client.body = None, 200, key_set("one")
    await scene.keys.refreshed()
    assert scene.keys.current() is not None
    assert scene.keys.status()["error"] is None


async def test_one_that_leaves_ends_the_fetch_for_nobody(scene: Scene) -> None:
    scene.client.gate.clear()
    leaving, staying = (waiter(scene.keys.refreshed()) for _ in range(2))
    await soon(lambda: scene.client.asked, "the fetch")
    leaving.cancel()
    await asyncio.sleep(0)
    scene.client.gate.set()
    await staying
    assert scene.keys.current() is not None
