"""What of the process can be seen without one; the rest is in `tests/e2e/test_signer.py`."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.open import Secrets
from sidecar.keys.spec import KeyFile
from sidecar.keys.token_messages import Mandate
from sidecar.signer import process as module
from sidecar.signer.limits import SignerLimits
from sidecar.signer.process import Order
from sidecar.signer.service import Place
from tests.support.log import KeptMessages
from tests.support.signer_service import software_signer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sidecar.keys.signer import Signer


@pytest.fixture
def order(tmp_path: Path) -> Order:
    return Order(Place(tmp_path / "s.sock"), KeyFile(tmp_path / "k"), Secrets(), SignerLimits(), Mandate())


@pytest.fixture
def hangs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The device hangs while the key is opened."""
    over = threading.Event()

    def open_key(*_: object) -> Signer:
        over.wait()
        return software_signer(ec.SECP256R1)

    monkeypatch.setattr(module, "open_key", open_key)
    yield
    over.set()


def untold() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


@pytest.mark.usefixtures("hangs")
async def test_a_device_that_hangs_at_the_start(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OPEN_SECONDS", 0.05)
    with pytest.raises(SignError) as caught:
        await module._opened(order, untold())
    assert caught.value.code is SignCode.TIMEOUT


@pytest.mark.usefixtures("hangs")
async def test_told_to_end_before_the_key_is_open(order: Order) -> None:
    told = untold()
    module._settle(told)
    module._settle(told)
    assert await module._opened(order, told) is None


async def test_what_nobody_expected_is_named_and_not_quoted() -> None:
    messages = KeptMessages()
    loop = asyncio.get_running_loop()
    module._unexpected(messages, loop, {"message": "a callback failed", "exception": ValueError("a secret")})
    module._unexpected(messages, loop, {})
    first, second = messages.lines
    assert first.startswith("error unexpected: a callback failed error=")
    assert "ValueError" in first
    assert "a secret" not in first
    assert second.startswith("error unexpected: an error")


async def test_what_opening_raises_is_raised(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: BaseException) -> Callable[..., Signer]:
        def open_key(*_: object) -> Signer:
            raise error

        return open_key

    for error in (SignError(SignCode.AUTH, "wrong PIN"), ValueError("a defect")):
        monkeypatch.setattr(module, "open_key", fails(error))
        with pytest.raises(type(error)) as caught:
            await module._opened(order, untold())
        assert caught.value is error
