"""Our key in a TPM: that it stays there, that it stays ours, and how often its PIN is tried."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.keys.errors import KeyCode, PrivateKeyError, SignCode, SignError
from sidecar.keys.protection import Protection
from sidecar.keys.selftest import self_test
from sidecar.keys.tpm import tss2
from sidecar.keys.tpm.context import Context
from sidecar.keys.tpm.create import create
from sidecar.keys.tpm.tss2 import OWNER
from tests.support.ca import keypair
from tests.support.swtpm import HANDLE, PIN, SIGN, Made, SlowRelay, Swtpm, import_key, outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.keys.serial import SerialSigner

pytestmark = pytest.mark.needs("swtpm", "tpm2-pytss")

WRONG = b"the owl at 5"


def undisturbed_by_lockout(tpm: Swtpm) -> Made:
    """A key with a PIN that the lockout does not guard, as tpm2-pytss makes them by default."""
    from tpm2_pytss.tsskey import TSSPrivKey

    with Context(tpm.tcti) as context:
        return Made(tpm.spec(), TSSPrivKey.create_ecc(context.esys, password=PIN).to_pem(), PIN)


def works(signer: SerialSigner) -> bool:
    return outcome(signer) is None


def refused(open_: Callable[[], Any]) -> SignError:
    with pytest.raises(SignError) as caught:
        open_()
    return caught.value


# The key


def test_evicted(tpm: Swtpm, make: Callable[..., Made]) -> None:
    key = make(handle=HANDLE)
    signer = key.open()
    tpm.evict(HANDLE)
    assert outcome(signer) is SignCode.NO_KEY
    assert refused(key.open).code is SignCode.NO_KEY


def test_another_key_at_its_handle(tpm: Swtpm, make: Callable[..., Made]) -> None:
    """Its signatures are never ours, though it signs gladly."""
    signer = make(handle=HANDLE).open()
    tpm.evict(HANDLE)
    other = make(handle=HANDLE).open()
    for _ in range(3):
        assert outcome(signer) is SignCode.NO_KEY
    self_test(other)
    assert signer.public_key != other.public_key


def test_a_wrapped_key_of_another_tpm(make: Callable[..., Made]) -> None:
    key = make()
    with Swtpm() as another:
        assert refused(lambda: key.open(tcti=another.tcti)).code is SignCode.NO_KEY
        assert another.transient_handles() == []


def test_a_storage_key_that_is_not_there(tpm: Swtpm) -> None:
    with Context(tpm.tcti) as context, context.storage_key(OWNER) as primary:
        context.esys.evict_control(context.library.ESYS_TR.OWNER, primary, 0x81000001)
    key = Made(tpm.spec(), create(tpm.spec(), ec.SECP256R1, None).pem)
    tpm.evict(0x81000001)
    error = refused(key.open)
    assert error.code is SignCode.NO_KEY
    assert "0x81000001" in str(error)


def test_it_cannot_be_duplicated(tpm: Swtpm, make: Callable[..., Made]) -> None:
    """Neither with its own authorisation, since duplication wants a policy, nor under one, since it has none."""
    make(handle=HANDLE)
    with Context(tpm.tcti) as context:
        auth_type, policy_fail = 0x124, 0x99D
        assert duplicated(context, context.persistent(HANDLE), policy=False) == auth_type
        assert duplicated(context, context.persistent(HANDLE), policy=True) == policy_fail
    assert tpm.loaded_sessions() == []


@pytest.mark.parametrize(("bound", "refusal"), [(False, None), (True, 0x182)])
def test_what_keeps_a_key_from_being_duplicated(tpm: Swtpm, bound: bool, refusal: int | None) -> None:
    """A key under that very policy is duplicated, unless it has our attributes."""
    with Context(tpm.tcti) as context:
        tss, attribute = context.library, context.library.TPMA_OBJECT
        with context.flushed(duplication(context)) as session:
            digest = bytes(context.esys.policy_get_digest(session))
        free = attribute.SIGN_ENCRYPT | attribute.USERWITHAUTH | attribute.SENSITIVEDATAORIGIN
        attributes = free | attribute.FIXEDTPM | attribute.FIXEDPARENT if bound else free
        template = tss.TPMT_PUBLIC.parse("ecc256:ecdsa-sha256", objectAttributes=attributes, authPolicy=digest)
        made = context.esys.create_primary(None, tss.TPM2B_PUBLIC(template))[0]
        with context.flushed(made):
            assert duplicated(context, made, policy=True) == refusal


def duplicated(context: Any, key: Any, *, policy: bool) -> int | None:
    """Asks the TPM for a key in the clear; returns its refusal, None if there is none."""
    tss = context.library
    none = tss.TPMT_SYM_DEF_OBJECT(algorithm=tss.TPM2_ALG.NULL)
    with context.flushed(duplication(context) if policy else tss.ESYS_TR.PASSWORD) as session:
        try:
            context.esys.duplicate(key, tss.ESYS_TR.NULL, b"", none, session1=session)
        except tss.TSS2_Exception as error:
            return int(error.rc)
        return None


def duplication(context: Any) -> Any:
    """A policy session that allows TPM2_Duplicate alone, as a key that may be duplicated wants one."""
    tss = context.library
    none = tss.TPMT_SYM_DEF(algorithm=tss.TPM2_ALG.NULL)
    session = context.esys.start_auth_session(
        tss.ESYS_TR.NONE, tss.ESYS_TR.NONE, tss.TPM2_SE.POLICY, none, tss.TPM2_ALG.SHA256
    )
    context.esys.policy_command_code(session, tss.TPM2_CC.Duplicate)
    return session


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1])
def test_a_key_that_was_outside_is_refused_unless_it_is_called_unsafe(
    tpm: Swtpm, curve: type[ec.EllipticCurve]
) -> None:
    known = keypair("known", curve=curve)
    pem = import_key(tpm, known)
    with pytest.raises(PrivateKeyError) as caught:
        Made(tpm.spec(), pem).open()
    assert caught.value.code is KeyCode.COPYABLE
    assert tpm.transient_handles() == []
    signer = Made(tpm.spec(copyable=True), pem).open()
    self_test(signer)
    assert signer.public_key == known.public_key()
    assert signer.protection is Protection.SOFTWARE
    signer.close()
    assert tpm.transient_handles() == []


def test_a_persistent_key_that_was_outside(tpm: Swtpm) -> None:
    wrapped = tss2.inspect(import_key(tpm, keypair("known")))
    with Context(tpm.tcti) as context, context.storage_key(wrapped.parent) as parent:
        tss = context.library
        private, area = (
            tss.TPM2B_PRIVATE.unmarshal(wrapped.private)[0],
            tss.TPM2B_PUBLIC.unmarshal(wrapped.area.raw)[0],
        )
        with context.flushed(context.load(parent, private, area)) as loaded:
            context.esys.evict_control(tss.ESYS_TR.OWNER, loaded, HANDLE)
    with pytest.raises(PrivateKeyError) as caught:
        Made(tpm.spec(handle=HANDLE), None).open()
    assert caught.value.code is KeyCode.COPYABLE


def test_a_storage_key_and_an_rsa_key_are_no_keys_of_ours(tpm: Swtpm) -> None:
    for template, words in (("ecc", "signing alone"), ("rsa2048", "RSA")):
        with Context(tpm.tcti) as context:
            primary = context.esys.create_primary(None, template)[0]
            with context.flushed(primary):
                context.esys.evict_control(context.library.ESYS_TR.OWNER, primary, HANDLE)
        with pytest.raises(PrivateKeyError) as caught:
            Made(tpm.spec(handle=HANDLE), None).open()
        assert caught.value.code is KeyCode.UNSUPPORTED
        assert words in str(caught.value)
        tpm.evict(HANDLE)


# PINs


def tries(tpm: Swtpm, open_: Callable[..., SerialSigner]) -> int:
    """How many times a signer with the wrong PIN asks the TPM, when it is asked three times."""
    used = open_()
    self_test(used)  # a TPM asks for a repetition when the first key that the lockout guards is used (RETRY)
    used.close()
    with SlowRelay(tpm) as relay:
        signer = open_(pin=WRONG, tcti=relay.tcti)
        for _ in range(3):
            assert outcome(signer) is SignCode.AUTH
        signer.close()
        return relay.commands[SIGN]


def test_a_wrong_pin_without_lockout(tpm: Swtpm) -> None:
    key = undisturbed_by_lockout(tpm)
    assert tries(tpm, key.open) == 1
    assert tpm.lockout_counter() == 0
    self_test(key.open())
    key.close()


def test_a_wrong_pin_is_tried_once(tpm: Swtpm, make: Callable[..., Made]) -> None:
    key = make(pin=PIN)
    assert tries(tpm, key.open) == 1
    assert tpm.lockout_counter() == 1
    self_test(key.open())


def test_a_wrong_pin_for_a_persistent_key(tpm: Swtpm, make: Callable[..., Made]) -> None:
    key = make(handle=HANDLE, pin=PIN)
    assert tries(tpm, key.open) == 1
    self_test(key.open())


def test_no_pin_where_one_is_wanted(tpm: Swtpm, make: Callable[..., Made]) -> None:
    for count, key in enumerate((make(pin=PIN), make(handle=HANDLE, pin=PIN)), 1):
        key.pin = None
        signer = key.open()
        for _ in range(3):
            assert outcome(signer) is SignCode.AUTH
        assert tpm.lockout_counter() == count


def test_a_pin_where_none_is_wanted(tpm: Swtpm, make: Callable[..., Made]) -> None:
    """A wrapped key says so itself, and the TPM is not asked."""
    with pytest.raises(PrivateKeyError) as caught:
        make().open(pin=PIN)
    assert caught.value.code is KeyCode.BAD_PIN
    assert outcome(make(handle=HANDLE).open(pin=PIN)) is SignCode.AUTH
    assert tpm.lockout_counter() == 0


def test_a_pin_longer_than_any(tpm: Swtpm, make: Callable[..., Made]) -> None:
    for key in (make(pin=PIN), make(handle=HANDLE, pin=PIN)):
        with pytest.raises(PrivateKeyError) as caught:
            key.open(pin=b"x" * 33)
        assert caught.value.code is KeyCode.BAD_PIN
    assert tpm.transient_handles() == []
    assert tpm.lockout_counter() == 0


def test_locked_out(tpm: Swtpm, make: Callable[..., Made]) -> None:
    """It is told as such, also with the right PIN; a key without a PIN goes on, and all do when it is over."""
    key, free = make(pin=PIN), make(handle=HANDLE).open()
    right = key.open()
    self_test(right)
    for _ in range(3):
        wrong = key.open(pin=WRONG)
        assert outcome(wrong) is SignCode.AUTH
        wrong.close()
    assert outcome(right) is SignCode.LOCKOUT
    assert works(free)
    with Context(tpm.tcti) as context:
        context.esys.dictionary_attack_lock_reset(context.library.ESYS_TR.LOCKOUT)
    assert works(right)


def test_the_pin_and_the_key_are_in_no_message(tpm: Swtpm, make: Callable[..., Made]) -> None:
    key = make(pin=PIN)
    with pytest.raises(SignError) as caught:
        self_test(key.open(pin=WRONG))
    text = f"{caught.value!r} {caught.value.hint} {key.signers[-1]!r}"
    assert "owl" not in text


# What one signature costs


def test_one_command_a_signature_and_none_else(tpm: Swtpm, make: Callable[..., Made]) -> None:
    with SlowRelay(tpm, delay=0.02) as relay:
        for key in (make(), make(handle=HANDLE), make(pin=PIN)):
            signer = key.open(tcti=relay.tcti)
            self_test(signer)  # see `tries`
            relay.commands.clear()
            began = time.monotonic()
            for _ in range(5):
                self_test(signer)
            assert time.monotonic() - began >= 5 * 0.02
            assert relay.commands == {SIGN: 5}
            signer.close()
