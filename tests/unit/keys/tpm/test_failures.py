"""A TPM that is full, gone, reset or hung, each with a real (software) one: it is told by its code, and passes."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.selftest import self_test
from sidecar.keys.tpm.context import Context
from tests.support.eventually import eventually
from tests.support.swtpm import HANDLE, PIN, outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.keys.serial import SerialSigner
    from tests.support.swtpm import Made, Swtpm

pytestmark = pytest.mark.needs("swtpm", "tpm2-pytss")

WRONG = b"the owl at 5"


def works(signer: SerialSigner) -> bool:
    return outcome(signer) is None


def refused(open_: Callable[[], Any]) -> SignError:
    with pytest.raises(SignError) as caught:
        open_()
    return caught.value


# Handles and sessions


def test_closed_without_flush_by_another_program(tpm: Swtpm, make: Callable[..., Made]) -> None:
    """It leaves no room: that is told, and our own attempts leave nothing behind."""
    key = make()
    for _ in range(2):
        with Context(tpm.tcti) as context:
            context.esys.create_primary(None, "ecc")
    for _ in range(3):
        assert refused(key.open).code is SignCode.FULL
        assert len(tpm.transient_handles()) == 2
    flush_all(tpm)
    self_test(key.open())


def test_we_flush_when_we_close(tpm: Swtpm, make: Callable[..., Made]) -> None:
    key = make()
    for _ in range(5):
        signer = key.open()
        self_test(signer)
        assert len(tpm.transient_handles()) == 1
        signer.close()
        assert tpm.transient_handles() == []


def test_slots_full_while_it_signs(tpm: Swtpm, make: Callable[..., Made]) -> None:
    """A key that is loaded goes on; after a reset it finds no room, and signs when there is."""
    signer = make().open()
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(Context(tpm.tcti))
        for _ in range(2):
            other.esys.create_primary(None, "ecc")
        assert works(signer)
        tpm.restart()
        for _ in range(3):
            other.esys.create_primary(None, "ecc")
        assert outcome(signer) is SignCode.FULL
    flush_all(tpm)
    eventually(lambda: works(signer), "room in the TPM")


def flush_all(tpm: Swtpm) -> None:
    handles = tpm.transient_handles()
    with Context(tpm.tcti) as context:
        for handle in handles:
            context.flush(context.persistent(handle))


def test_no_session_is_left(tpm: Swtpm, make: Callable[..., Made]) -> None:
    signer = make(pin=PIN).open()
    for _ in range(5):
        self_test(signer)
    assert tpm.loaded_sessions() == []
    signer.close()
    assert tpm.loaded_sessions() == tpm.transient_handles() == []


def test_two_contexts_and_threads_on_one_tpm(make: Callable[..., Made]) -> None:
    """Without one lock a context, most of the signatures fail (0x70007)."""
    signers = [make().open(limit=60), make(handle=HANDLE).open(limit=60)]
    found: list[SignCode | None] = []

    def work(signer: SerialSigner) -> None:
        found.extend(outcome(signer) for _ in range(10))

    threads = [threading.Thread(target=work, args=(signer,)) for signer in signers * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [None] * 60


# Outages


@pytest.mark.parametrize("handle", [None, HANDLE])
def test_killed(tpm: Swtpm, make: Callable[..., Made], handle: int | None) -> None:
    signer = make(handle=handle).open()
    self_test(signer)
    tpm.kill()
    began = time.monotonic()
    for _ in range(20):
        assert outcome(signer) is SignCode.UNAVAILABLE
    assert time.monotonic() - began < 5
    tpm.start()
    eventually(lambda: works(signer), "the TPM")
    signer.close()
    assert tpm.transient_handles() == []


@pytest.mark.parametrize("handle", [None, HANDLE])
def test_rebooted(tpm: Swtpm, make: Callable[..., Made], handle: int | None) -> None:
    """Nobody notices, whether the key has to be loaded anew or not."""
    signer = make(handle=handle).open()
    for _ in range(2):
        tpm.restart()
        self_test(signer)
    signer.close()
    assert tpm.transient_handles() == []


def test_rebooted_and_another_key_in_our_place(tpm: Swtpm, make: Callable[..., Made]) -> None:
    """Our handle then names somebody else's key, which signs: nobody gets that signature, and we do not flush it."""
    mine, other = make(), make()
    signer = mine.open()
    tpm.restart()
    foreign = other.open()
    assert len(tpm.transient_handles()) == 1
    self_test(signer)
    signer.close()
    self_test(foreign)
    assert len(tpm.transient_handles()) == 1


def test_rebooted_and_a_key_with_another_pin_in_our_place(tpm: Swtpm, make: Callable[..., Made]) -> None:
    """It refuses our PIN, which says nothing about our own key: that one is loaded, and has its first try."""
    mine, other = make(pin=PIN), make(pin=WRONG)
    signer = mine.open()
    self_test(signer)
    tpm.restart()
    foreign = other.open()
    self_test(signer)
    self_test(foreign)


def test_reset_in_the_middle_of_traffic(tpm: Swtpm, make: Callable[..., Made]) -> None:
    signer = make().open(limit=60)
    ended, found = threading.Event(), set[SignCode | None]()

    def work() -> None:
        while not ended.is_set():
            found.add(outcome(signer))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            eventually(lambda: None in found, "signatures")
            tpm.kill()
            eventually(lambda: SignCode.UNAVAILABLE in found, "the outage")
            tpm.start()
            found.clear()
        eventually(lambda: None in found, "signatures")
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert found <= {None, SignCode.UNAVAILABLE}
    signer.close()
    assert tpm.transient_handles() == []


def test_hung(tpm: Swtpm, make: Callable[..., Made]) -> None:
    """The thread inside is held; others give up at the time limit, then at once; all is well when it answers again."""
    signer = make().open(limit=0.2)
    tpm.hang()
    inside: list[SignCode | None] = []
    held = threading.Thread(target=lambda: inside.append(outcome(signer)), daemon=True)
    held.start()
    eventually(lambda: signer.hung, "the time limit")
    began = time.monotonic()
    for _ in range(50):
        assert outcome(signer) is SignCode.TIMEOUT
    assert time.monotonic() - began < 0.2 * 50 / 5
    assert held.is_alive()
    tpm.resume()
    held.join(20)
    assert inside == [None]
    assert works(signer)


def test_hung_and_then_killed(tpm: Swtpm, make: Callable[..., Made]) -> None:
    signer = make().open(limit=0.2)
    tpm.hang()
    inside: list[SignCode | None] = []
    held = threading.Thread(target=lambda: inside.append(outcome(signer)), daemon=True)
    held.start()
    eventually(lambda: signer.hung, "the time limit")
    tpm.kill()
    held.join(20)
    assert inside == [SignCode.UNAVAILABLE]
    tpm.start()
    eventually(lambda: works(signer), "the TPM")


def test_closed_when_the_tpm_is_gone(tpm: Swtpm, make: Callable[..., Made]) -> None:
    signer = make().open()
    tpm.kill()
    signer.close()
    assert outcome(signer) is SignCode.CLOSED


def test_missing_when_it_is_opened(tpm: Swtpm, make: Callable[..., Made]) -> None:
    key = make()
    tpm.kill()
    assert refused(key.open).code is SignCode.UNAVAILABLE
    tpm.start()
    self_test(key.open())
