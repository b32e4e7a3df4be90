"""HTTP clients as agents use them, told nothing but ``HTTP_PROXY``: each reads it from its environment in its own way."""

from __future__ import annotations

import asyncio
import hashlib
import io
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import LOOPBACK, PLANNER

if TYPE_CHECKING:
    from tests.support.processes import Pair

URL = "http://tools.internal"
LARGE = bytes(range(256)) * 8 * 1024
SUNK = {"size": len(LARGE), "sha256": hashlib.sha256(LARGE).hexdigest()}


@pytest.fixture
def agent(shared: Pair, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """An environment with the proxy in it, and no other word about it."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", f"http://{LOOPBACK}:{shared.planner.port('outbound')}")
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1,::1")
    return shared


@pytest.mark.needs("httpx")
def test_httpx(agent: Pair) -> None:
    import httpx

    with httpx.Client(timeout=20) as client:
        got = client.get(f"{URL}/httpx", params={"q": "a b"})
        assert (got.status_code, got.text) == (200, "hello\n")
        assert client.post(f"{URL}/sink", content=LARGE).json() == SUNK
        assert client.post(f"{URL}/sink", content=iter([LARGE[:1000], LARGE[1000:]])).json() == SUNK  # chunked
        assert client.get("http://elsewhere.internal/").status_code == 403
    (seen,) = agent.backend.of("/httpx")
    assert seen.fields("x-sidecar-caller") == [PLANNER]
    assert seen.fields("host") == ["tools.internal"]


@pytest.mark.needs("httpx2")
def test_httpx2(agent: Pair) -> None:
    import httpx2

    with httpx2.Client(timeout=20) as client:
        assert client.get(f"{URL}/httpx2").text == "hello\n"
        assert client.post(f"{URL}/sink", content=LARGE).json() == SUNK


@pytest.mark.needs("aiohttp")
def test_aiohttp(agent: Pair) -> None:
    import aiohttp

    async def part() -> None:
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(trust_env=True, timeout=timeout) as client:
            async with client.get(f"{URL}/aiohttp") as got:
                assert (got.status, await got.text()) == (200, "hello\n")
            async with client.post(f"{URL}/sink", data=io.BytesIO(LARGE)) as sunk:
                assert await sunk.json(content_type=None) == SUNK
            # With `expect100` it sends the body only when it was told to go on.
            async with client.post(f"{URL}/sink", data=io.BytesIO(LARGE), expect100=True) as sunk:
                assert await sunk.json(content_type=None) == SUNK
            async with client.get("http://elsewhere.internal/") as denied:
                assert denied.status == 403

    asyncio.run(part())
    (seen,) = agent.backend.of("/aiohttp")
    assert seen.fields("x-sidecar-caller") == [PLANNER]
