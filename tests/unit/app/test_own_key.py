"""Our key as the process uses it: opened before it is taken, tried when it does not sign, let go of in the end."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from sidecar.app import own_key
from sidecar.app.own_key import OwnKey
from sidecar.clock import Clock
from sidecar.config.load import load
from sidecar.errors import ConfigurationError
from sidecar.keys import software
from sidecar.keys.errors import KeyCode, SignCode, SignError
from sidecar.keys.protection import Protection
from sidecar.keys.signer import Hash
from sidecar.telemetry.messages import Messages
from sidecar.telemetry.metrics import Metrics
from tests.support.ca import keypair
from tests.support.eventually import soon
from tests.support.server import configuration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

    from sidecar.config.load import Loaded
    from sidecar.keys.open import Secrets
    from sidecar.keys.spec import KeySpec


class Device:
    """A signer that a test opens in the place of a service."""

    protection = Protection.REMOTE

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        from tests.support.ca import key_pem

        self._signer = software.SoftwareSigner(software.load(key_pem(key)))
        self.public_key = self._signer.public_key
        self.fail: SignCode | None = None
        self.go = threading.Event()
        self.go.set()
        self.asked = 0
        self.closed = 0

    def sign(self, message: bytes, hash_: Hash) -> bytes:
        self.asked += 1
        self.go.wait(30)
        if self.fail is not None:
            raise SignError(self.fail, "as the test says")
        return self._signer.sign(message, hash_)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test's PIN was refused is nothing to the next."""
    monkeypatch.setattr(own_key, "_refused", set())


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    return configured(tmp_path)


def configured(folder: Path, *, key: str = "signer:unix:nobody.sock", **limits: str) -> Loaded:
    import yaml

    config = configuration(folder, 1) | {"limits": limits}
    config["identity"]["key"] = key
    (folder / "sidecar.yaml").write_text(yaml.safe_dump(config))
    return load(folder / "sidecar.yaml", now=Clock().wall())


@pytest.fixture
def device(loaded: Loaded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Device:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    made = Device(load_pem_private_key((tmp_path / "tls.key").read_bytes(), None))  # type: ignore[arg-type]  # P-256

    def opened(spec: KeySpec, secrets: Secrets, *, limit: float) -> Device:
        return made

    monkeypatch.setattr(own_key, "open_signer", opened)
    return made


async def test_it_signs_once_before_it_is_taken(loaded: Loaded, device: Device) -> None:
    key = await OwnKey.open(loaded)
    assert (key.protection, key.trouble, device.asked) == ("remote", None, 1)
    await key.close()
    assert device.closed == 1


async def test_the_same_key_is_kept_and_another_limit_opens_it_anew(
    loaded: Loaded, device: Device, tmp_path: Path
) -> None:
    key = await OwnKey.open(loaded)
    assert await OwnKey.open(configured(tmp_path), key) is key
    assert await OwnKey.open(configured(tmp_path, sign_timeout="1s"), key) is not key
    assert device.asked == 2


async def test_a_software_key_needs_no_device(tmp_path: Path) -> None:
    import yaml

    (tmp_path / "sidecar.yaml").write_text(yaml.safe_dump(configuration(tmp_path, 1)))
    loaded = load(tmp_path / "sidecar.yaml", now=Clock().wall())
    key = await OwnKey.open(loaded)
    assert (key.protection, key.trouble) == ("software", None)
    assert await OwnKey.open(load(tmp_path / "sidecar.yaml", now=Clock().wall()), key) is key
    await key.close()
    key.retire(0)


def test_a_key_in_a_device_is_no_file(loaded: Loaded) -> None:
    with pytest.raises(ConfigurationError):
        OwnKey.of_file(loaded.material.key)


async def test_a_key_that_does_not_sign_is_closed_again(loaded: Loaded, device: Device) -> None:
    device.fail = SignCode.AUTH
    with pytest.raises(SignError) as caught:
        await OwnKey.open(loaded)
    assert caught.value.code is SignCode.AUTH
    assert (device.asked, device.closed) == (1, 1)


async def test_a_key_of_another_certificate_is_closed_and_never_asked(
    loaded: Loaded, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.public_key = keypair("another").public_key()
    with pytest.raises(ConfigurationError) as caught:
        await OwnKey.open(loaded)
    assert caught.value.code is KeyCode.MISMATCH
    assert (device.asked, device.closed) == (0, 1)


async def test_a_device_that_hangs_is_given_up_and_closed_when_it_comes_back(
    tmp_path: Path, loaded: Loaded, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_key, "OPEN_SECONDS", 0.0)
    device.go.clear()
    with pytest.raises(SignError) as caught:
        await OwnKey.open(configured(tmp_path, sign_timeout="50ms"))
    assert caught.value.code is SignCode.TIMEOUT
    assert "did not answer within" in str(caught.value)
    device.go.set()
    await soon(lambda: device.closed == 1, "the late key to be closed")


@asynccontextmanager
async def watched(key: OwnKey) -> AsyncIterator[tuple[Metrics, Callable[[], str]]]:
    import os

    metrics = Metrics()
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    said = bytearray()

    def messages() -> str:
        with suppress(BlockingIOError):  # nothing new
            said.extend(os.read(reader, 65536))
        return said.decode()

    task = asyncio.get_running_loop().create_task(key.watch(Messages(Clock().wall, fd=writer), metrics))
    try:
        yield metrics, messages
    finally:
        task.cancel()
        os.close(reader)
        os.close(writer)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_key, "_LOOK_SECONDS", 0.005)
    monkeypatch.setattr(own_key, "RETRY_SECONDS", (0.01, 0.02))


async def test_one_that_does_not_sign_is_tried_until_it_does(loaded: Loaded, device: Device, hasty: None) -> None:
    key = await OwnKey.open(loaded)
    async with watched(key) as (metrics, said):
        device.fail = SignCode.UNAVAILABLE
        with pytest.raises(SignError):
            key.private_key.signer.sign(b"x", Hash.SHA256)  # type: ignore[attr-defined]  # as a handshake does
        assert key.trouble == "signer_unavailable"
        before = device.asked
        await soon(lambda: device.asked > before + 2, "tries")
        await soon(lambda: "our key does not sign" in said(), "a message")
        assert "code=signer_unavailable" in said()
        device.fail = None
        await soon(lambda: key.trouble is None, "the end of the trouble")
        await soon(lambda: "our key signs again" in said(), "a message")
        await soon(
            lambda: metrics.sign_failures_total.labels("remote", "signer_unavailable").value >= 3,
            "failures to be counted",
        )
        await soon(lambda: sum(metrics.sign_duration_seconds.labels("remote").counts) >= 1, "signatures to be counted")
        assert said().count("our key does not sign") == 1
    await key.close()


async def test_one_that_nobody_uses_is_tried_now_and_then(
    loaded: Loaded, device: Device, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await OwnKey.open(loaded)
    monkeypatch.setattr(own_key, "IDLE_SECONDS", 0.05)
    async with watched(key) as (_, said):
        await soon(lambda: device.asked > 2, "it to be tried")
        assert said() == ""
        device.fail = SignCode.NO_KEY
        await soon(lambda: key.trouble == "signer_key_gone", "the trouble to be found without traffic")


async def test_retired_it_is_closed_in_its_time(loaded: Loaded, device: Device) -> None:
    key = await OwnKey.open(loaded)
    key.retire(0.01)
    await soon(lambda: device.closed == 1, "it to be closed")


async def test_closing_a_device_that_hangs_takes_its_time_and_no_more(
    loaded: Loaded, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await OwnKey.open(loaded)
    monkeypatch.setattr(own_key, "CLOSE_SECONDS", 0.05)
    blocked = threading.Event()
    monkeypatch.setattr(device, "close", lambda: blocked.wait(30))
    await key.close()
    blocked.set()


@pytest.mark.parametrize(
    ("place", "asked"), [("tpm:handle=0x81000002;pin-source=file:pin", 1), ("signer:unix:nobody.sock", 3)]
)
async def test_a_pin_that_was_refused_is_not_sent_again_by_a_reload(
    tmp_path: Path, device: Device, place: str, asked: int
) -> None:
    """A signer service keeps to that by itself."""
    pin = tmp_path / "pin"
    pin.touch(mode=0o600)
    pin.write_text("wrong")
    device.fail = SignCode.AUTH
    for _ in range(3):
        with pytest.raises(SignError) as caught:
            await OwnKey.open(configured(tmp_path, key=place))
        assert caught.value.code is SignCode.AUTH
    assert device.asked == asked
    device.fail = None
    pin.write_text("right")
    key = await OwnKey.open(configured(tmp_path, key=place))
    assert device.asked == asked + 1
    await key.close()


async def test_a_key_that_was_replaced_at_its_place_is_opened_anew(loaded: Loaded, device: Device) -> None:
    key = await OwnKey.open(loaded)
    device.fail = SignCode.NO_KEY
    with pytest.raises(SignError):
        key.private_key.signer.sign(b"x", Hash.SHA256)  # type: ignore[attr-defined]  # as a handshake does
    device.fail = None
    assert await OwnKey.open(loaded, key) is not key


async def test_what_a_reload_retired_is_closed_with_the_process(loaded: Loaded, device: Device) -> None:
    key = await OwnKey.open(loaded)
    key.retire(3600)
    await own_key.close_retired()
    assert device.closed == 1


async def test_a_defect_in_a_try_does_not_end_the_trying(
    loaded: Loaded, device: Device, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await OwnKey.open(loaded)
    monkeypatch.setattr(own_key, "IDLE_SECONDS", 0.01)
    async with watched(key) as (_, said):

        async def broken(*_: object) -> None:
            raise RuntimeError("secret")

        real = own_key.apart
        monkeypatch.setattr(own_key, "apart", broken)
        await soon(lambda: "our key could not be tried" in said(), "a message")
        assert "secret" not in said()
        monkeypatch.setattr(own_key, "apart", real)
        before = device.asked
        await soon(lambda: device.asked > before, "it to be tried again")
