"""A device that is slow, hangs, or refuses, and the threads that want it."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

import pytest

from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.protection import Protection
from sidecar.keys.serial import SerialSigner
from sidecar.keys.signer import Hash
from tests.support.ca import keypair
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT = 3.0


class FakeDevice:
    """Signs when it is let: ``gate`` is shut while it hangs."""

    public_key = keypair("a device").public_key()
    protection = Protection.TPM

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.busy = 0
        self.most = 0
        self.asked: list[bytes] = []
        self.closed = 0
        self.failure: BaseException | None = None

    def _work(self) -> None:
        self.busy += 1
        self.most = max(self.most, self.busy)
        assert self.gate.wait(60)
        self.busy -= 1

    def sign(self, digest: bytes, hash_: Hash) -> bytes:
        self.asked.append(digest)
        self._work()
        if self.failure:
            raise self.failure
        return hash_.value.encode() + digest

    def close(self) -> None:
        self._work()
        self.closed += 1


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def device() -> Iterator[FakeDevice]:
    made = FakeDevice()
    yield made
    made.gate.set()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def signer(device: FakeDevice, clock: Clock) -> SerialSigner:
    return SerialSigner(device, limit=LIMIT, monotonic=clock)


class Worker:
    """One call in a thread of its own."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.result: object = None
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except SignError as error:
            self.result = error

    def outcome(self) -> object:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.result.code if isinstance(self.result, SignError) else self.result


def sign(signer: SerialSigner, message: bytes = b"m") -> bytes:
    return signer.sign(message, Hash.SHA256)


def code(signer: SerialSigner) -> SignCode:
    with pytest.raises(SignError) as caught:
        sign(signer)
    return caught.value.code


def hang(signer: SerialSigner, device: FakeDevice, clock: Clock, call: Callable[[], object] | None = None) -> Worker:
    device.gate.clear()
    worker = Worker(call or (lambda: sign(signer)))
    eventually(lambda: device.busy, "the device is in a call")
    assert not signer.hung
    clock.now += LIMIT
    assert signer.hung
    return worker


def test_the_device_gets_a_digest_and_the_answer_comes_back(signer: SerialSigner, device: FakeDevice) -> None:
    assert (signer.public_key, signer.protection) == (device.public_key, device.protection)
    for hash_ in Hash:
        digest = hashlib.new(hash_.value, b"message").digest()
        assert signer.sign(b"message", hash_) == hash_.value.encode() + digest
        assert device.asked.pop() == digest


def test_one_at_a_time(signer: SerialSigner, device: FakeDevice) -> None:
    device.gate.clear()
    workers = [Worker(lambda: sign(signer)) for _ in range(8)]
    eventually(lambda: device.busy, "the device is in a call")
    device.gate.set()
    assert all(isinstance(worker.outcome(), bytes) for worker in workers)
    assert (device.most, len(device.asked)) == (1, 8)


def test_who_waits_gives_up_at_the_limit(device: FakeDevice) -> None:
    signer = SerialSigner(device, limit=0.05)
    device.gate.clear()
    first = Worker(lambda: sign(signer))
    eventually(lambda: device.busy, "the device is in a call")
    second = Worker(lambda: sign(signer))
    assert second.outcome() is SignCode.TIMEOUT
    assert len(device.asked) == 1
    device.gate.set()
    assert isinstance(first.outcome(), bytes)
    assert isinstance(sign(signer), bytes)


def test_behind_a_hung_call_nobody_waits(signer: SerialSigner, device: FakeDevice, clock: Clock) -> None:
    worker = hang(signer, device, clock)
    # The limit is by our clock, which stands still: whoever waited would do so for three real seconds each.
    results = [code(signer) for _ in range(200)]
    assert results == [SignCode.TIMEOUT] * 200
    with pytest.raises(SignError, match="did not answer within 3 s"):
        sign(signer)
    assert len(device.asked) == 1
    device.gate.set()
    assert isinstance(worker.outcome(), bytes)


def test_it_recovers_with_the_device(signer: SerialSigner, device: FakeDevice, clock: Clock) -> None:
    for _ in range(3):
        worker = hang(signer, device, clock)
        assert code(signer) is SignCode.TIMEOUT
        device.gate.set()
        assert isinstance(worker.outcome(), bytes)
        assert not signer.hung
        assert isinstance(sign(signer), bytes)


@pytest.mark.parametrize(
    "failure", [SignError(SignCode.AUTH, "no", hint="another PIN"), SignError(SignCode.CLOSED, "no")]
)
def test_a_final_failure_is_not_asked_for_twice(signer: SerialSigner, device: FakeDevice, failure: SignError) -> None:
    device.failure = failure
    assert code(signer) is failure.code
    device.failure = None
    for _ in range(3):
        with pytest.raises(SignError) as caught:
            sign(signer)
        assert caught.value is not failure
        assert (caught.value.code, str(caught.value), caught.value.hint) == (failure.code, "no", failure.hint)
    assert len(device.asked) == 1


@pytest.mark.parametrize("failed", sorted(set(SignCode) - {SignCode.AUTH, SignCode.CLOSED}))
def test_any_other_failure_is_not_final(signer: SerialSigner, device: FakeDevice, failed: SignCode) -> None:
    device.failure = SignError(failed, "not now")
    assert code(signer) is failed
    device.failure = None
    assert isinstance(sign(signer), bytes)
    assert not signer.hung


def test_a_failure_of_ours_gives_the_device_back(signer: SerialSigner, device: FakeDevice, clock: Clock) -> None:
    device.failure = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        sign(signer)
    clock.now += LIMIT
    device.failure = None
    assert not signer.hung
    assert isinstance(sign(signer), bytes)


def test_closed(signer: SerialSigner, device: FakeDevice) -> None:
    for _ in range(3):
        signer.close()
    assert device.closed == 1
    assert [code(signer), code(signer)] == [SignCode.CLOSED] * 2
    assert device.asked == []


def test_a_refused_pin_is_closed_as_well(signer: SerialSigner, device: FakeDevice) -> None:
    device.failure = SignError(SignCode.AUTH, "no")
    assert code(signer) is SignCode.AUTH
    signer.close()
    assert device.closed == 1
    assert code(signer) is SignCode.CLOSED


def test_closing_a_device_that_hangs(signer: SerialSigner, device: FakeDevice, clock: Clock) -> None:
    worker = hang(signer, device, clock)
    with pytest.raises(SignError) as caught:
        signer.close()
    assert caught.value.code is SignCode.TIMEOUT
    assert device.closed == 0
    device.gate.set()
    assert isinstance(worker.outcome(), bytes)
    signer.close()
    assert device.closed == 1


def test_a_device_that_hangs_while_it_is_closed(signer: SerialSigner, device: FakeDevice, clock: Clock) -> None:
    worker = hang(signer, device, clock, signer.close)
    assert code(signer) is SignCode.TIMEOUT
    with pytest.raises(SignError):
        signer.close()
    device.gate.set()
    assert worker.outcome() is None
    assert code(signer) is SignCode.CLOSED
    signer.close()
    assert device.closed == 1


def test_closing_waits_for_the_call_that_runs(signer: SerialSigner, device: FakeDevice) -> None:
    device.gate.clear()
    signing = Worker(lambda: sign(signer))
    eventually(lambda: device.busy, "the device is in a call")
    closing = Worker(signer.close)
    device.gate.set()
    assert isinstance(signing.outcome(), bytes)
    assert closing.outcome() is None
    assert (device.most, device.closed) == (1, 1)
