from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from pkcs11 import exceptions as ckr
from pkcs11.constants import Attribute, ObjectClass

from sidecar.keys.errors import KeyCode, PrivateKeyError, SignCode, SignError
from sidecar.keys.pkcs11 import create as module_under_test
from sidecar.keys.pkcs11 import search
from sidecar.keys.pkcs11.create import create, find
from sidecar.keys.uri import Pkcs11Key, parse
from tests.support.softhsm import PIN, SoftHsm

if TYPE_CHECKING:
    from pkcs11.types import Session

    from sidecar.keys.pkcs11.search import TokenObject

pytestmark = pytest.mark.needs("softhsm", "python-pkcs11")

CURVES = pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1])


def place(hsm: SoftHsm, path: str) -> Pkcs11Key:
    return parse(f"pkcs11:token=sidecar;{path}?module-path={hsm.library}", hsm.folder)


def refused(spec: Pkcs11Key, curve: type[ec.EllipticCurve] = ec.SECP256R1) -> PrivateKeyError:
    with pytest.raises(PrivateKeyError) as caught:
        create(spec, curve, PIN)
    return caught.value


def both(session: Session, label: str) -> tuple[Any, Any]:
    return tuple(
        session.get_key(object_class=kind, label=label) for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)
    )  # type: ignore[return-value]  # two


@CURVES
def test_what_is_made(hsm: SoftHsm, curve: type[ec.EllipticCurve]) -> None:
    public_key = create(hsm.spec("new"), curve, PIN)
    assert isinstance(public_key.curve, curve)
    with hsm.session() as session:
        private, public = both(session, "new")
        yes = {Attribute.TOKEN, Attribute.PRIVATE, Attribute.SENSITIVE, Attribute.ALWAYS_SENSITIVE, Attribute.SIGN}
        yes |= {Attribute.NEVER_EXTRACTABLE, Attribute.LOCAL}
        no = {Attribute.EXTRACTABLE, Attribute.DECRYPT, Attribute.UNWRAP, Attribute.DERIVE}
        assert {attribute for attribute in yes | no if private[attribute] not in {False, b"\0"}} == yes
        assert {attribute for attribute in (Attribute.TOKEN, Attribute.VERIFY) if not public[attribute]} == set()
        assert {attribute for attribute in (Attribute.ENCRYPT, Attribute.WRAP) if public[attribute]} == set()
        assert private[Attribute.ID] == public[Attribute.ID]
        assert len(private[Attribute.ID]) == 16
        assert len(list(session.get_objects())) == 2


def test_the_identifier_that_the_place_names(hsm: SoftHsm) -> None:
    spec = place(hsm, "object=new;id=%00%ff")
    public_key = create(spec, ec.SECP256R1, PIN)
    assert find(spec, PIN) == (public_key, b"\0\xff")


def test_a_key_is_found_again(hsm: SoftHsm) -> None:
    assert find(hsm.spec("new"), PIN) is None
    public_key = create(hsm.spec("new"), ec.SECP384R1, PIN)
    found = find(hsm.spec("new"), PIN)
    assert found is not None
    assert found[0] == public_key
    assert find(place(hsm, "id=" + "".join(f"%{byte:02x}" for byte in found[1])), PIN) == found
    assert find(hsm.spec("other"), PIN) is None
    assert find(hsm.spec("new"), None) is None


def test_a_key_that_can_be_copied_is_not_found_in_silence(hsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setitem(module_under_test._PRIVATE, Attribute.EXTRACTABLE, True)
        create(hsm.spec("loose", query="&unsafe-copyable=true"), ec.SECP256R1, PIN)
    with pytest.raises(PrivateKeyError) as caught:
        find(hsm.spec("loose"), PIN)
    assert caught.value.code is KeyCode.COPYABLE


def test_nothing_is_overwritten(hsm: SoftHsm) -> None:
    public_key = create(place(hsm, "object=first;id=%01"), ec.SECP256R1, PIN)
    for path in ("object=first", "object=first;id=%02", "object=second;id=%01"):
        error = refused(place(hsm, path))
        assert error.code is KeyCode.EXISTS
        assert "nothing is overwritten" in error.hint
    assert find(hsm.spec("first"), PIN) == (public_key, b"\1")


def test_half_of_a_pair_counts_as_well(hsm: SoftHsm) -> None:
    create(hsm.spec("first"), ec.SECP256R1, PIN)
    with hsm.session() as session:
        both(session, "first")[0].destroy()
    assert refused(hsm.spec("first")).code is KeyCode.EXISTS


def test_a_place_without_a_label(hsm: SoftHsm) -> None:
    assert refused(place(hsm, "id=%01")).code is KeyCode.BAD_PLACE


def test_another_curve(hsm: SoftHsm) -> None:
    assert refused(hsm.spec("new"), ec.SECP521R1).code is KeyCode.UNSUPPORTED


def test_a_wrong_pin(hsm: SoftHsm) -> None:
    with pytest.raises(SignError) as caught:
        create(hsm.spec("new"), ec.SECP256R1, b"wrong PIN")
    assert caught.value.code is SignCode.AUTH


@pytest.mark.parametrize("attribute", [Attribute.SENSITIVE, Attribute.EXTRACTABLE])
def test_a_token_that_makes_something_else(hsm: SoftHsm, monkeypatch: pytest.MonkeyPatch, attribute: Attribute) -> None:
    real = search.read

    def read(found: TokenObject, asked: Attribute) -> bytes | None:
        value = real(found, asked)
        return b"\1\0"[value[0] : value[0] + 1] if asked is attribute and value else value

    monkeypatch.setattr(search, "read", read)
    assert refused(hsm.spec("new")).code is KeyCode.COPYABLE
    with hsm.session() as session:
        assert list(session.get_objects()) == []  # it was destroyed


def test_a_token_that_does_not_know_the_curve(hsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(search.EC_PARAMS, ec.SECP256R1, bytes.fromhex("06052b81040099"))
    with pytest.raises((PrivateKeyError, SignError)) as caught:
        create(hsm.spec("new"), ec.SECP256R1, PIN)
    assert isinstance(caught.value, PrivateKeyError | SignError)
    assert caught.value.code in {KeyCode.UNSUPPORTED, SignCode.UNAVAILABLE}  # SoftHSM: CKR_GENERAL_ERROR


@pytest.mark.parametrize("failure", [ckr.MechanismInvalid, ckr.DomainParamsInvalid, ckr.FunctionNotSupported])
def test_a_token_that_makes_no_such_keys(failure: type[ckr.PKCS11Error]) -> None:
    class Parameters:
        def generate_keypair(self, **_: object) -> None:
            raise failure

    class Refusing:
        def create_domain_parameters(self, *_: object, **__: object) -> Parameters:
            return Parameters()

    with pytest.raises(PrivateKeyError) as caught:
        module_under_test._generate(Refusing(), Pkcs11Key(SoftHsm, object="x"), ec.SECP384R1)  # type: ignore[arg-type]  # a fake
    assert caught.value.code is KeyCode.UNSUPPORTED
    assert failure.__name__ in str(caught.value)


LABELS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def shared() -> Any:
    with SoftHsm() as made:
        yield made


@given(label=LABELS)
def test_any_label(shared: SoftHsm, label: str) -> None:
    """Invariant: a key is made under any label that a place can hold, and found by the written form of that place."""
    spec = Pkcs11Key(shared.library, token="sidecar", object=label)
    public_key = create(spec, ec.SECP256R1, PIN)
    try:
        found = find(parse(str(spec), shared.folder), PIN)
        assert found is not None
        assert found[0] == public_key
    finally:
        with shared.session() as session:
            for each in list(session.get_objects({Attribute.LABEL: label})):
                each.destroy()
