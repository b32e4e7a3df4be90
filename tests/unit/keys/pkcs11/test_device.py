"""A key in SoftHSM: what is refused, what becomes of a token that goes away, and how often a PIN is tried."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import exceptions as ckr
from pkcs11.constants import Attribute, MechanismFlag, ObjectClass, TokenFlag
from pkcs11.mechanisms import KeyType

from sidecar.keys.errors import KeyCode, PrivateKeyError, SignCode, SignError
from sidecar.keys.pkcs11 import search
from sidecar.keys.pkcs11.create import create
from sidecar.keys.pkcs11.device import LAST_PAUSE, TokenDevice, _der, open_device
from sidecar.keys.pkcs11.module import Module
from sidecar.keys.protection import Protection
from sidecar.keys.selftest import self_test
from sidecar.keys.serial import SerialSigner
from sidecar.keys.signer import Hash
from sidecar.keys.uri import parse
from tests.support.ca import Ca, der
from tests.support.softhsm import PIN, SoftHsm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pkcs11.types import Session

pytestmark = pytest.mark.needs("softhsm", "python-pkcs11")

WRONG = b"not the PIN"
DIGEST = bytes(32)
P256 = search.EC_PARAMS[ec.SECP256R1]


class Tries:
    """Counts the logins that reach the module, and makes the next ones fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pins: list[bytes] = []
        self.failure: ckr.PKCS11Error | None = None
        real = Module.login

        def login(module: Module, session: int, pin: bytes) -> None:
            self.pins.append(pin)
            if self.failure:
                raise self.failure
            real(module, session, pin)

        monkeypatch.setattr(Module, "login", login)


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> Tries:
    return Tries(monkeypatch)


@pytest.fixture
def signer(hsm: SoftHsm) -> Iterator[SerialSigner]:
    create(hsm.spec("one"), ec.SECP256R1, PIN)
    made = SerialSigner(open_device(hsm.spec("one"), PIN))
    yield made
    made.close()


def generate(
    session: Session, label: str, *, curve: bytes = P256, id_: bytes = b"1", private: dict[Attribute, Any] | None = None
) -> tuple[Any, Any]:
    parameters = session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: curve}, local=True)
    capabilities = MechanismFlag.SIGN | MechanismFlag.VERIFY
    made: tuple[Any, Any] = parameters.generate_keypair(
        id=id_, label=label, store=True, capabilities=capabilities, private_template=private
    )
    return made


def refused(hsm: SoftHsm, label: str, pin: bytes | None = PIN, **more: str) -> PrivateKeyError | SignError:
    with pytest.raises((PrivateKeyError, SignError)) as caught:
        open_device(hsm.spec(label, **more), pin)
    assert isinstance(caught.value, PrivateKeyError | SignError)
    assert PIN.decode() not in f"{caught.value} {caught.value.hint}"
    return caught.value


def flags(hsm: SoftHsm) -> TokenFlag:
    return next(token.flags for token in (slot.get_token() for slot in hsm.module.slots()) if token.label == hsm.token)


def code_of(signer: SerialSigner | TokenDevice) -> SignCode:
    # A device takes the digest of any message as it takes ours.
    with pytest.raises(SignError) as caught:
        signer.sign(DIGEST, Hash.SHA256)
    return caught.value.code


# What is refused


def test_the_key_is_sensitive_and_cannot_be_read(hsm: SoftHsm, signer: SerialSigner) -> None:
    assert signer.protection is Protection.HSM
    with hsm.session() as session:
        key = session.get_key(object_class=ObjectClass.PRIVATE_KEY, label="one")
        for attribute in (Attribute.VALUE, Attribute.PRIVATE_EXPONENT, Attribute.PRIME_1, Attribute.SEED):
            with pytest.raises((ckr.AttributeSensitive, ckr.AttributeTypeInvalid)):
                key[attribute]
        with pytest.raises(ckr.PKCS11Error):
            key[Attribute.EXTRACTABLE] = True
        with pytest.raises(ckr.PKCS11Error):
            key[Attribute.SENSITIVE] = False


def test_a_key_that_can_be_copied(hsm: SoftHsm) -> None:
    with hsm.session() as session:
        generate(session, "loose", private={Attribute.EXTRACTABLE: True, Attribute.SENSITIVE: False})
        generate(session, "wrappable", id_=b"2", private={Attribute.EXTRACTABLE: True})
    for label in ("loose", "wrappable"):
        error = refused(hsm, label)
        assert error.code is KeyCode.COPYABLE
        assert "unsafe-copyable=true" in error.hint
        device = open_device(hsm.spec(label, query="&unsafe-copyable=true"), PIN)
        assert device.protection is Protection.SOFTWARE
        self_test(SerialSigner(device))
        device.close()


def test_a_key_on_neither_curve(hsm: SoftHsm) -> None:
    with hsm.session() as session:
        generate(session, "521", curve=bytes.fromhex("06052b81040023"))
    error = refused(hsm, "521")
    assert error.code is KeyCode.UNSUPPORTED
    assert "P-256 and P-384" in str(error)


def test_rsa(hsm: SoftHsm) -> None:
    with hsm.session() as session:
        session.generate_keypair(KeyType.RSA, 2048, id=b"r", label="rsa", store=True)
    error = refused(hsm, "rsa")
    assert (error.code, str(error)) == (
        KeyCode.UNSUPPORTED,
        "what is labelled 'rsa' in the token is an RSA key; P-256 and P-384 are supported",
    )


def test_a_key_that_may_not_sign(hsm: SoftHsm) -> None:
    with hsm.session() as session:
        generate(session, "mute", private={Attribute.SIGN: False, Attribute.DERIVE: True})
    assert refused(hsm, "mute").code is KeyCode.UNSUPPORTED


def test_no_such_key(hsm: SoftHsm) -> None:
    create(hsm.spec("one"), ec.SECP256R1, PIN)
    error = refused(hsm, "two")
    assert (error.code, str(error)) == (KeyCode.NO_KEY, "the token has no private key that is labelled 'two'")


def test_without_a_pin_no_private_key_is_seen(hsm: SoftHsm, signer: SerialSigner) -> None:
    # Somebody of this process is logged in, or not: it must not make a difference.
    for _ in range(2):
        error = refused(hsm, "one", None)
        assert error.code is KeyCode.NO_KEY
        assert "pin-source" in error.hint
        signer.close()


def test_two_keys_of_one_label(hsm: SoftHsm) -> None:
    with hsm.session() as session:
        for id_ in (b"1", b"2"):
            generate(session, "twin", id_=id_, private={Attribute.EXTRACTABLE: False})
    error = refused(hsm, "twin")
    assert error.code is KeyCode.SEVERAL_KEYS
    assert "id=" in error.hint
    points = set()
    for id_ in ("%31", "%32"):
        uri = hsm.uri("twin").replace("object=twin", f"object=twin;id={id_}")
        device = open_device(parse(uri, hsm.folder), PIN)
        self_test(SerialSigner(device))
        points.add(device.public_key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint))
        device.close()
    assert len(points) == 2


def test_a_certificate_in_the_place_of_the_public_key(hsm: SoftHsm) -> None:
    with hsm.session() as session:
        public, _ = generate(session, "card", private={Attribute.EXTRACTABLE: False})
        public.destroy()
    error = refused(hsm, "card")
    assert error.code is KeyCode.NO_KEY
    assert "no public key and no certificate" in str(error)
    certificate = der(Ca().certificate)
    with hsm.session() as session:
        session.create_object(
            {
                Attribute.CLASS: ObjectClass.CERTIFICATE,
                Attribute.CERTIFICATE_TYPE: 0,
                Attribute.TOKEN: True,
                Attribute.ID: b"1",
                Attribute.SUBJECT: b"",
                Attribute.VALUE: certificate,
            }
        )
    device = open_device(hsm.spec("card"), PIN)
    assert device.public_key == Ca().key.public_key()
    # It is another key's, and the self-test sees it.
    with pytest.raises(SignError) as caught:
        self_test(SerialSigner(device))
    assert caught.value.code is SignCode.BAD_SIGNATURE
    device.close()


def test_no_such_token(hsm: SoftHsm) -> None:
    error = refused(hsm, "one", token="another")
    assert (error.code, str(error)) == (
        SignCode.UNAVAILABLE,
        "the token of our private key is not there (token 'another')",
    )
    assert error.hint == "the module shows 'sidecar'"


def test_several_tokens(hsm: SoftHsm) -> None:
    hsm.make_token("sidecar")
    hsm.reset()
    assert refused(hsm, "one").code is KeyCode.SEVERAL_KEYS
    serials = [token.serial.decode() for token in (slot.get_token() for slot in hsm.module.slots()) if token.label]
    for serial in serials:
        spec = parse(hsm.uri("one").replace(";object", f";serial={serial};object"), hsm.folder)
        create(spec, ec.SECP256R1, PIN)
        device = open_device(spec, PIN)
        self_test(SerialSigner(device))
        device.close()


# The PIN


def test_a_wrong_pin_is_tried_once(hsm: SoftHsm, tries: Tries) -> None:
    create(hsm.spec("one"), ec.SECP256R1, PIN)
    tries.pins.clear()
    for _ in range(4):
        error = refused(hsm, "one", WRONG)
        assert error.code is SignCode.AUTH
        assert WRONG.decode() not in f"{error} {error.hint}"
    assert tries.pins == [WRONG]
    assert flags(hsm) & TokenFlag.USER_PIN_COUNT_LOW  # what SoftHSM says after any wrong PIN
    open_device(hsm.spec("one"), PIN).close()
    assert not flags(hsm) & TokenFlag.USER_PIN_COUNT_LOW


def test_a_pin_that_was_changed_meanwhile_is_tried_once(hsm: SoftHsm, signer: SerialSigner, tries: Tries) -> None:
    device = signer._device
    assert isinstance(device, TokenDevice)
    with hsm.session() as session:
        session.set_pin(PIN.decode(), "the next PIN")
    self_test(signer)  # whoever is logged in stays so
    hsm.reset()
    tries.pins.clear()
    assert [code_of(signer) for _ in range(3)] == [SignCode.AUTH] * 3
    assert [code_of(device) for _ in range(3)] == [SignCode.AUTH] * 3
    assert refused(hsm, "one").code is SignCode.AUTH
    assert tries.pins == [PIN]
    again = open_device(hsm.spec("one"), b"the next PIN")
    again.sign(DIGEST, Hash.SHA256)
    again.close()


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (ckr.PinIncorrect(), SignCode.AUTH),
        (ckr.PinLenRange(), SignCode.AUTH),
        (ckr.PinExpired(), SignCode.AUTH),
        (ckr.UserPinNotInitialized(), SignCode.AUTH),
        (ckr.PKCS11Error("0x80000001"), SignCode.AUTH),
        (ckr.FunctionRejected(), SignCode.AUTH),
        (ckr.PinLocked(), SignCode.LOCKOUT),
        (ckr.DeviceRemoved(), SignCode.UNAVAILABLE),
        (ckr.DeviceMemory(), SignCode.FULL),
    ],
    ids=repr,
)
def test_whatever_a_login_says(hsm: SoftHsm, tries: Tries, failure: ckr.PKCS11Error, code: SignCode) -> None:
    create(hsm.spec("one"), ec.SECP256R1, PIN)
    tries.failure = failure
    tries.pins.clear()
    assert [refused(hsm, "one").code for _ in range(2)] == [code] * 2
    # What may have been a try of the PIN is not repeated.
    assert len(tries.pins) == (1 if code is SignCode.AUTH else 2)


def test_no_session_left(hsm: SoftHsm, signer: SerialSigner, monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy:
        def open(self, **_: object) -> None:
            raise ckr.SessionCount

    with monkeypatch.context() as patched:
        patched.setattr("sidecar.keys.pkcs11.session.choose", lambda *_: Busy())
        assert refused(hsm, "one").code is SignCode.FULL
    assert hsm.module.sessions == 1
    self_test(signer)


# A token that goes away


def test_it_gets_over_a_reset(hsm: SoftHsm, signer: SerialSigner) -> None:
    for _ in range(3):
        hsm.reset()
        self_test(signer)
    assert hsm.module.sessions == 1


def test_it_gets_over_a_logout(hsm: SoftHsm, signer: SerialSigner) -> None:
    with hsm.session() as session:
        hsm.log_out(session)
        self_test(signer)


def test_the_key_is_deleted_and_made_again(hsm: SoftHsm, signer: SerialSigner) -> None:
    with hsm.session() as session:
        for found in list(session.get_objects({Attribute.LABEL: "one"})):
            found.destroy()
    assert code_of(signer) is SignCode.NO_KEY
    assert code_of(signer) is SignCode.UNAVAILABLE  # at once: it has just been looked for
    create(hsm.spec("one"), ec.SECP256R1, PIN)
    signer._device._not_before = 0.0  # type: ignore[attr-defined]  # the pause is over
    with pytest.raises(SignError, match="another key in the place of ours") as caught:
        self_test(signer)
    assert caught.value.code is SignCode.NO_KEY


def test_the_token_is_deleted_and_made_again(hsm: SoftHsm) -> None:
    clock = 100.0
    create(hsm.spec("one"), ec.SECP256R1, PIN)
    device = TokenDevice(hsm.spec("one"), PIN, monotonic=lambda: clock)
    hsm.delete_token("sidecar")
    assert code_of(device) is SignCode.UNAVAILABLE
    assert hsm.module.sessions == 0
    hsm.make_token("sidecar")
    assert code_of(device) is SignCode.UNAVAILABLE
    clock += LAST_PAUSE
    assert code_of(device) is SignCode.NO_KEY  # the token is back, without the key
    create(hsm.spec("one"), ec.SECP256R1, PIN)
    clock += LAST_PAUSE
    assert code_of(device) is SignCode.NO_KEY  # another key
    device.close()


class Flaky:
    """A key that fails as told, once a use."""

    def __init__(self, device: TokenDevice, monkeypatch: pytest.MonkeyPatch, *failures: ckr.PKCS11Error) -> None:
        self.uses = 0
        left = list(failures)
        real = search.Found.sign

        def sign(found: search.Found, digest: bytes, pin: bytes | None) -> bytes:
            self.uses += 1
            if left:
                raise left.pop(0)
            return real(found, digest, pin)

        monkeypatch.setattr(search.Found, "sign", sign)


@pytest.mark.parametrize("failure", [ckr.DeviceError(), ckr.DeviceRemoved(), ckr.UserNotLoggedIn(), ckr.GeneralError()])
def test_once_more_and_no_more(
    hsm: SoftHsm, failure: ckr.PKCS11Error, tries: Tries, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 100.0
    create(hsm.spec("one"), ec.SECP256R1, PIN)
    device = TokenDevice(hsm.spec("one"), PIN, monotonic=lambda: clock)
    flaky = Flaky(device, monkeypatch, failure)
    device.sign(DIGEST, Hash.SHA256)
    assert flaky.uses == 2
    pauses = []
    tries.pins.clear()
    flaky = Flaky(device, monkeypatch, *[failure] * 9)
    for _ in range(8):
        uses, opened = flaky.uses, len(tries.pins)
        assert code_of(device) is SignCode.UNAVAILABLE
        pauses.append(device._not_before - clock)
        assert flaky.uses - uses <= 2
        assert len(tries.pins) - opened <= 1
        uses = flaky.uses
        assert code_of(device) is SignCode.UNAVAILABLE  # within the pause, without a try
        assert flaky.uses == uses
        clock = device._not_before
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    device.sign(DIGEST, Hash.SHA256)
    flaky = Flaky(device, monkeypatch, failure, failure)
    assert code_of(device) is SignCode.UNAVAILABLE
    assert device._not_before - clock == pytest.approx(0.1)  # a signature ends the series
    device.close()


@pytest.mark.parametrize(
    ("failure", "name"),
    [
        (ckr.FunctionRejected(), "FunctionRejected"),
        (ckr.MechanismInvalid(), "MechanismInvalid"),
        (ckr.PKCS11Error("Unmapped error code 0x80000013"), "0x80000013"),
        (ckr.PKCS11Error("whatever"), "PKCS11Error"),
    ],
    ids=repr,
)
def test_other_failures_are_named(
    hsm: SoftHsm, signer: SerialSigner, monkeypatch: pytest.MonkeyPatch, failure: ckr.PKCS11Error, name: str
) -> None:
    device = signer._device
    assert isinstance(device, TokenDevice)
    flaky = Flaky(device, monkeypatch, failure)
    with pytest.raises(SignError) as caught:
        self_test(signer)
    assert (caught.value.code, str(caught.value)) == (
        SignCode.FAILED,
        f"the token with our private key failed ({name})",
    )
    assert flaky.uses == 1
    self_test(signer)


def test_a_pin_that_a_signature_asks_for_is_tried_once(
    hsm: SoftHsm, signer: SerialSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    # CKA_ALWAYS_AUTHENTICATE: the login went well, and the PIN is wrong by now.
    device = signer._device
    assert isinstance(device, TokenDevice)
    flaky = Flaky(device, monkeypatch, ckr.PinIncorrect())
    assert [code_of(device) for _ in range(3)] == [SignCode.AUTH] * 3
    assert flaky.uses == 1


@pytest.mark.parametrize(
    "raw", [b"", bytes(64), bytes(32) + b"\1" * 32, b"\1" * 32 + bytes(32), b"\1" * 63, b"\1" * 65, b"\1" * 96]
)
def test_what_is_no_signature(raw: bytes) -> None:
    with pytest.raises(SignError) as caught:
        _der(raw, 32)
    assert caught.value.code is SignCode.BAD_SIGNATURE


# Several keys of one process


def test_rotation_to_another_key_of_the_token(hsm: SoftHsm, signer: SerialSigner, tries: Tries) -> None:
    create(hsm.spec("two"), ec.SECP384R1, PIN)
    new = SerialSigner(open_device(hsm.spec("two"), PIN))
    self_test(new)
    self_test(signer)
    signer.close()
    tries.pins.clear()
    self_test(new)
    assert tries.pins == []  # it was not logged out
    assert hsm.logged_in()
    new.close()
    assert not hsm.logged_in()


def test_another_pin_while_the_token_is_open(hsm: SoftHsm, signer: SerialSigner, tries: Tries) -> None:
    # The token would not look at it.
    error = refused(hsm, "one", WRONG)
    assert error.code is SignCode.AUTH
    assert "restart" in error.hint
    assert tries.pins == []
    self_test(signer)


def test_two_keys_get_over_a_reset(hsm: SoftHsm, signer: SerialSigner) -> None:
    other = SerialSigner(open_device(hsm.spec("one"), PIN))
    hsm.reset()
    self_test(other)
    self_test(signer)
    self_test(other)
    other.close()
    self_test(signer)
    assert hsm.module.sessions == 1


def test_two_keys_in_many_threads_with_resets(hsm: SoftHsm, signer: SerialSigner) -> None:
    others = [signer, *(SerialSigner(open_device(hsm.spec("one"), PIN)) for _ in range(3))]
    failures: list[BaseException] = []

    def work(own: SerialSigner) -> None:
        try:
            for _ in range(40):
                self_test(own)
        except BaseException as error:  # noqa: BLE001 - seen below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(own,), daemon=True) for own in others]
    for thread in threads:
        thread.start()
    for _ in range(5):
        with hsm.module.alone():
            hsm.reset()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []
    for other in others[1:]:
        other.close()
    assert hsm.module.sessions == 1


def test_the_interpreter_may_end_at_any_moment(hsm: SoftHsm) -> None:
    create(hsm.spec("one"), ec.SECP256R1, PIN)
    program = f"""
import pathlib, threading
from sidecar.keys import open, spec
from sidecar.keys.signer import Hash
from sidecar.keys.uri import parse
place = spec.parse({hsm.uri("one")!r}, pathlib.Path("/"))
signer = open.open_signer(place, open.Secrets(pin={PIN!r}))
started = threading.Event()
def work():
    while True:
        signer.sign(b"message", Hash.SHA256)
        started.set()
threading.Thread(target=work, daemon=True).start()
assert started.wait(20)
"""
    for _ in range(3):
        ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
        assert (ended.returncode, ended.stderr) == (0, "")
