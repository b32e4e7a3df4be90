from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from pkcs11.constants import TokenFlag
from pkcs11.exceptions import DeviceError, GeneralError, PKCS11Error, TokenNotPresent
from pkcs11.mechanisms import KeyType

from sidecar.keys.errors import KeyCode, PrivateKeyError, SignCode, SignError
from sidecar.keys.pkcs11.module import Module
from sidecar.keys.pkcs11.session import TokenSession, choose, open_session
from sidecar.keys.uri import Pkcs11Key, parse

if TYPE_CHECKING:
    from tests.support.softhsm import SoftHsm

PIN = b"1234"
READY = TokenFlag.TOKEN_INITIALIZED


class FakeToken:
    """A token, and the session with it."""

    handle = 7

    def __init__(self, label: str, slot: int = 1, *, serial: bytes = b"s1", flags: TokenFlag = READY) -> None:
        self.label, self.serial, self.flags = label, serial, flags
        self.model, self.manufacturer_id = "a model", "a maker"
        self.slot = SimpleNamespace(slot_id=slot)
        self.closed = 0

    def open(self, **_: object) -> FakeToken:
        return self

    def close(self) -> None:
        self.closed += 1
        raise DeviceError


class FakeModule(Module):
    """A module with these tokens, or errors in their slots."""

    def __init__(self, *tokens: FakeToken | PKCS11Error) -> None:
        super().__init__(Path("/module.so"))
        self.tokens = tokens
        self.tried: list[bytes] = []

    def slots(self) -> Any:
        def get(token: FakeToken | PKCS11Error) -> FakeToken:
            if isinstance(token, PKCS11Error):
                raise token
            return token

        return [SimpleNamespace(get_token=lambda token=token: get(token)) for token in self.tokens]

    def login(self, session: int, pin: bytes) -> None:
        assert session == FakeToken.handle
        self.tried.append(pin)


def key(path: str) -> Pkcs11Key:
    return parse(f"pkcs11:{path};object=x?module-path=/module.so", Path("/"))


A, B = FakeToken("a"), FakeToken("b", 2, serial=b"s2\0\0")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("token=a", A),
        ("token=b", B),
        ("serial=s1", A),
        ("serial=s2", B),
        ("slot-id=2", B),
        ("slot-id=2;token=b;serial=s2;model=a%20model;manufacturer=a%20maker", B),
    ],
)
def test_each_attribute_chooses(path: str, found: FakeToken) -> None:
    assert choose(FakeModule(A, B), key(path)) is found  # type: ignore[comparison-overlap]  # a fake


@pytest.mark.parametrize("path", ["token=c", "token=A", "slot-id=3", "token=a;serial=s2", "token=a;model=another"])
def test_none_of_them(path: str) -> None:
    with pytest.raises(SignError) as caught:
        choose(FakeModule(A, B), key(path))
    assert caught.value.code is SignCode.UNAVAILABLE
    assert caught.value.hint == "the module shows 'a', 'b'"


def test_no_token_at_all() -> None:
    blank = FakeToken("", flags=TokenFlag(0))
    for module in (FakeModule(), FakeModule(TokenNotPresent(), GeneralError(), blank)):
        with pytest.raises(SignError) as caught:
            choose(module, key("token=a"))
        assert caught.value.code is SignCode.UNAVAILABLE
        assert "is it plugged in" in caught.value.hint


def test_a_broken_slot_is_none_of_our_business() -> None:
    assert choose(FakeModule(GeneralError(), A), key("token=a")) is A  # type: ignore[comparison-overlap]  # a fake


def test_several() -> None:
    with pytest.raises(PrivateKeyError) as caught:
        choose(FakeModule(A, B), key("model=a%20model"))
    assert (caught.value.code, str(caught.value)) == (KeyCode.SEVERAL_KEYS, "2 tokens fit (model 'a model')")


def test_a_label_that_would_write_to_the_terminal() -> None:
    with pytest.raises(SignError) as caught:
        choose(FakeModule(FakeToken("\x1b[31m" + "x" * 99)), key("token=a"))
    assert "\x1b" not in caught.value.hint
    assert len(caught.value.hint) < 80


def test_a_locked_pin_is_not_tried() -> None:
    module = FakeModule(FakeToken("a", flags=READY | TokenFlag.USER_PIN_LOCKED))
    with pytest.raises(SignError) as caught:
        open_session(module, key("token=a"), PIN)
    assert caught.value.code is SignCode.LOCKOUT
    assert module.tried == []
    assert module.sessions == 0


def test_closing_never_raises_and_counts_once() -> None:
    token = FakeToken("a")
    module = FakeModule(token)
    first, second = (open_session(module, key("token=a"), PIN) for _ in range(2))
    assert (module.sessions, module.pins) == (2, {(1, b"s1"): [PIN, PIN]})
    for _ in range(3):
        first.close()
    assert (module.sessions, module.pins) == (1, {(1, b"s1"): [PIN]})
    second.close()
    assert (module.sessions, module.pins) == (0, {})
    assert token.closed == 2


def test_each_token_has_its_own_pin() -> None:
    module = FakeModule(FakeToken("a"), FakeToken("b", 2))
    one = open_session(module, key("token=a"), PIN)
    two = open_session(module, key("token=b"), b"another")
    with pytest.raises(SignError, match="with another PIN"):
        open_session(module, key("token=b"), PIN)
    assert module.tried == [PIN, b"another"]
    two.close()
    open_session(module, key("token=b"), PIN).close()
    one.close()


@pytest.mark.needs("softhsm", "python-pkcs11")
def test_a_login_that_failed_leaves_no_session(hsm: SoftHsm) -> None:
    for number in range(3):
        with pytest.raises(SignError):
            open_session(hsm.module, hsm.spec("x"), b"wrong %d" % number)
    assert hsm.module.sessions == 0
    # A session that were left behind would keep the process logged in after the last one of ours is closed.
    with hsm.session() as session:
        session.create_object({0: 0, 1: True, 2: True, 3: "data", 0x11: b"value"})  # type: ignore[dict-item]  # a CKO_DATA
    probe = open_session(hsm.module, hsm.spec("x"), None)
    assert list(probe.session.get_objects()) == []
    probe.close()


@pytest.mark.needs("softhsm", "python-pkcs11")
def test_a_login_of_another_library_in_this_process(hsm: SoftHsm) -> None:
    right = hsm.pin_file.read_bytes().strip()
    foreign = TokenSession(hsm.module, choose(hsm.module, hsm.spec("x")))
    hsm.module.login(foreign.session.handle, right)  # type: ignore[attr-defined]  # the stub lacks it
    open_session(hsm.module, hsm.spec("x"), right).close()
    with hsm.session() as session:  # makes a private object, so it is logged in
        session.generate_key(KeyType.AES, 128, label="a key", store=True)
        assert len(list(session.get_objects())) == 1
    assert len(list(foreign.session.get_objects())) == 1  # and nobody has logged the other out
    foreign.close()
