"""Identities with keys in a TPM or a token: kept by renewals, never confused with others, never lost unnoticed."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from sidecar.devcerts import files
from sidecar.devcerts.devices import parse_device
from sidecar.devcerts.errors import DevCertsCode, DevCertsError
from sidecar.devcerts.generate import Made, generate
from sidecar.devcerts.layout import Order
from sidecar.errors import SidecarError
from sidecar.identity.svid import Svid
from sidecar.keys.errors import KeyCode, PrivateKeyError, SignCode, SignError
from sidecar.keys.open import Secrets, open_signer
from sidecar.keys.protection import Protection
from sidecar.keys.spec import KeyFile, TpmKey, parse
from sidecar.keys.uri import Pkcs11Key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.devcerts.devices import Device
    from sidecar.devcerts.identities import Identity
    from tests.support.softhsm import SoftHsm
    from tests.support.swtpm import Swtpm

NOW = 1_800_000_000.0
DAY = 24 * 3600.0
PIN = b"1234"
BASE = Path("/base")


@pytest.fixture
def tpm() -> Iterator[Swtpm]:
    from tests.support.swtpm import Swtpm

    with Swtpm() as made:
        yield made
        assert made.transient_handles() == made.loaded_sessions() == made.persistent_handles() == []


@pytest.fixture
def hsm() -> Iterator[SoftHsm]:
    from tests.support.softhsm import SoftHsm

    with SoftHsm() as made:
        yield made
        assert made.module.sessions == 0


class Kind:
    """A kind of device, with all that a run needs."""

    def __init__(self, device: Device, pin: bytes | None, file: str, protection: Protection) -> None:
        self.device = device
        self.pin = pin
        self.file = file
        self.protection = protection

    def init(self, folder: Path, *agents: str, now: float = NOW, pin: bytes | None = None, **rest: Any) -> Made:
        return generate(Order.parse(folder, agents, device=self.device, **rest), now, pin or self.pin)

    def opens(self, identity: Identity) -> bool:
        """Says whether the place that is printed leads to the certificate's key, as a proxy would look."""
        spec = parse(str(identity.key.spec), BASE)
        pem = spec.file.read_bytes() if isinstance(spec, TpmKey) and spec.file else None
        signer = open_signer(spec, Secrets(pem, self.pin))
        svid = Svid.from_pem(identity.place.certificate.read_bytes(), NOW)
        try:
            svid.check_key(signer.public_key)
        finally:
            signer.close()
        return svid.pin == identity.pin and signer.protection is self.protection


@pytest.fixture(
    params=[
        pytest.param("tpm", marks=pytest.mark.needs("swtpm", "tpm2-pytss")),
        pytest.param("token", marks=pytest.mark.needs("softhsm", "python-pkcs11")),
    ]
)
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param == "tpm":
        tpm: Swtpm = request.getfixturevalue("tpm")
        return Kind(TpmKey(tcti=tpm.tcti), PIN, "tls.tpm.pem", Protection.TPM)
    hsm: SoftHsm = request.getfixturevalue("hsm")
    from tests.support.softhsm import PIN as TOKEN_PIN

    return Kind(replace(hsm.spec("x"), object=None), TOKEN_PIN, "tls.pkcs11.uri", Protection.HSM)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def software(folder: Path, *agents: str, **rest: Any) -> Made:
    return generate(Order.parse(folder, agents, **rest), NOW)


def refused(folder: Path, call: Any, *arguments: Any, **rest: Any) -> DevCertsError:
    """Asserts that a run is refused, with a hint, and leaves every file as it was."""
    before = contents(folder)
    with pytest.raises(DevCertsError) as caught:
        call(folder, *arguments, **rest)
    assert contents(folder) == before
    assert caught.value.hint
    return caught.value


# -- what both do ---------------------------------------------------------------------------------------------------------


def test_keys_are_made_and_fit(kind: Kind, tmp_path: Path) -> None:
    made = kind.init(tmp_path / "c", "planner", "tools")
    assert all(kind.opens(one) for one in made.identities)
    assert [one.news for one in made.identities] == ["new key", "new key"]
    assert [one.protection for one in made.identities] == [kind.protection] * 2
    assert len({one.pin for one in made.identities}) == 2
    assert set(contents(tmp_path / "c")) == {
        *(".gitignore", "ca.crt", "ca.key"),
        *(f"planner/{kind.file}", "planner/tls.crt", f"tools/{kind.file}", "tools/tls.crt"),
    }


def test_a_second_run_renews_certificates_and_keeps_keys(kind: Kind, tmp_path: Path) -> None:
    (first,) = kind.init(tmp_path, "planner").identities
    before = contents(tmp_path)
    (second,) = kind.init(tmp_path, "planner", now=NOW + 6 * DAY).identities
    after = contents(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"planner/tls.crt"}
    assert (second.pin, second.news, second.unused) == (first.pin, "key kept", ())
    assert second.key == first.key
    assert second.not_after == NOW + 13 * DAY


def test_new_keys(kind: Kind, tmp_path: Path) -> None:
    pins = [kind.init(tmp_path, "planner", "tools").identities[0].pin]
    others = {name: data for name, data in contents(tmp_path).items() if "planner" not in name}
    for _ in range(3):
        (made,) = kind.init(tmp_path, "planner", new_keys=True).identities
        assert (made.news, kind.opens(made)) == ("new key", True)
        pins.append(made.pin)
        (kept,) = kind.init(tmp_path, "planner").identities
        assert (kept.pin, kept.news) == (made.pin, "key kept")
    assert len(set(pins)) == 4
    assert {name: data for name, data in contents(tmp_path).items() if "planner" not in name} == others


def test_instances_have_keys_of_their_own(kind: Kind, tmp_path: Path) -> None:
    one = kind.init(tmp_path, "planner").identities[0]
    blue = kind.init(tmp_path, "planner", instance="blue").identities[0]
    assert one.pin != blue.pin
    assert (tmp_path / "planner" / "blue" / kind.file).exists()
    assert kind.opens(one)
    assert kind.opens(blue)


def test_a_key_without_a_certificate_is_kept(kind: Kind, tmp_path: Path) -> None:
    (first,) = kind.init(tmp_path, "planner").identities
    (tmp_path / "planner" / "tls.crt").unlink()
    (second,) = kind.init(tmp_path, "planner").identities
    assert (second.pin, second.news) == (first.pin, "key kept")


def test_a_run_that_is_cut_between_key_and_certificate_goes_on(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        write = files.write

        def cut(file: files.NewFile) -> None:
            if file.path.name == "tls.crt":
                raise KeyboardInterrupt
            write(file)

        patch.setattr(files, "write", cut)
        with pytest.raises(KeyboardInterrupt):
            kind.init(tmp_path, "planner")
    before = (tmp_path / "planner" / kind.file).read_bytes()
    (made,) = kind.init(tmp_path, "planner").identities
    assert (made.news, kind.opens(made)) == ("key kept", True)
    assert (tmp_path / "planner" / kind.file).read_bytes() == before


def test_the_key_of_another_agent_is_not_the_certificate_s(kind: Kind, tmp_path: Path) -> None:
    kind.init(tmp_path, "planner", "tools")
    (tmp_path / "planner" / kind.file).write_bytes((tmp_path / "tools" / kind.file).read_bytes())
    assert refused(tmp_path, kind.init, "planner").code is DevCertsCode.KEY_MISMATCH
    assert kind.opens(kind.init(tmp_path, "planner", new_keys=True).identities[0])


@pytest.mark.parametrize(
    "garbage", [b"", b"garbage", b"\xff\0", b"pkcs11:object=x", b"-----BEGIN TSS2 PRIVATE KEY-----\n"]
)
@pytest.mark.parametrize("new_keys", [False, True])
def test_what_is_not_ours_is_never_replaced(kind: Kind, tmp_path: Path, garbage: bytes, new_keys: bool) -> None:
    kind.init(tmp_path, "planner")
    (tmp_path / "planner" / kind.file).write_bytes(garbage)
    assert refused(tmp_path, kind.init, "tools", "planner", new_keys=new_keys).code is DevCertsCode.KEY_INVALID


# -- mixed folders --------------------------------------------------------------------------------------------------------


def test_a_folder_with_keys_in_files_asked_for_a_device(kind: Kind, tmp_path: Path) -> None:
    (first,) = software(tmp_path, "planner").identities
    error = refused(tmp_path, kind.init, "planner")
    assert error.code is DevCertsCode.KEY_ELSEWHERE
    assert "--new-keys" in error.hint
    assert "without --key" in error.hint
    (made,) = kind.init(tmp_path, "planner", new_keys=True).identities
    assert made.pin != first.pin
    assert made.unused == (str(tmp_path / "planner" / "tls.key"),)
    assert (tmp_path / "planner" / "tls.key").exists(), "named, not removed"
    assert kind.init(tmp_path, "planner").identities[0].pin == made.pin


def test_a_folder_with_keys_in_a_device_asked_for_files(kind: Kind, tmp_path: Path) -> None:
    (first,) = kind.init(tmp_path, "planner").identities
    error = refused(tmp_path, software, "planner")
    assert error.code is DevCertsCode.KEY_ELSEWHERE
    assert "--new-keys" in error.hint
    assert "with --key " in error.hint
    (made,) = software(tmp_path, "planner", new_keys=True).identities
    assert made.pin != first.pin
    assert made.unused == (str(tmp_path / "planner" / kind.file),)
    assert made.key.spec == KeyFile(tmp_path / "planner" / "tls.key")
    assert software(tmp_path, "planner").identities[0].pin == made.pin
    assert refused(tmp_path, kind.init, "planner").code is DevCertsCode.KEY_ELSEWHERE


def test_one_agent_of_another_kind_stops_all(kind: Kind, tmp_path: Path) -> None:
    software(tmp_path, "tools")
    assert refused(tmp_path, kind.init, "planner", "tools").code is DevCertsCode.KEY_ELSEWHERE


# -- a TPM ----------------------------------------------------------------------------------------------------------------

tpm_only = pytest.mark.parametrize(
    "kind", [pytest.param("tpm", marks=pytest.mark.needs("swtpm", "tpm2-pytss"))], indirect=True
)
token_only = pytest.mark.parametrize(
    "kind", [pytest.param("token", marks=pytest.mark.needs("softhsm", "python-pkcs11"))], indirect=True
)


@tpm_only
def test_a_wrapped_key_is_for_us_alone(kind: Kind, tmp_path: Path) -> None:
    kind.init(tmp_path, "planner")
    path = tmp_path / "planner" / "tls.tpm.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    assert refused(tmp_path, kind.init, "planner").code is DevCertsCode.KEY_EXPOSED
    kind.init(tmp_path, "planner", new_keys=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@tpm_only
def test_a_wrong_pin_is_tried_once(kind: Kind, tpm: Swtpm, tmp_path: Path) -> None:
    kind.init(tmp_path, "planner", "tools")
    before = contents(tmp_path)
    with pytest.raises(SignError) as caught:
        kind.init(tmp_path, "planner", "tools", pin=b"12345")
    assert caught.value.code is SignCode.AUTH
    assert str(caught.value).startswith(f"{tmp_path}/planner/tls.tpm.pem: ")
    assert tpm.lockout_counter() == 1
    assert contents(tmp_path) == before


@tpm_only
def test_the_key_of_another_tpm_is_refused_until_a_new_one_is_wanted(kind: Kind, tmp_path: Path) -> None:
    from tests.support.swtpm import Swtpm

    kind.init(tmp_path, "planner")
    with Swtpm() as other:
        kind.device = TpmKey(tcti=other.tcti)
        with pytest.raises(SignError) as caught:
            kind.init(tmp_path, "planner")
        assert caught.value.code is SignCode.NO_KEY
        assert kind.opens(kind.init(tmp_path, "planner", new_keys=True).identities[0])


@tpm_only
def test_a_key_that_can_be_copied(kind: Kind, tpm: Swtpm, tmp_path: Path) -> None:
    from tests.support.swtpm import import_key

    kind.pin = None
    data = import_key(tpm, ec.generate_private_key(ec.SECP256R1()))
    files.write(files.NewFile(tmp_path / "planner" / "tls.tpm.pem", data, files.PRIVATE))
    with pytest.raises(PrivateKeyError) as caught:
        kind.init(tmp_path, "planner")
    assert caught.value.code is KeyCode.COPYABLE
    kind.device = TpmKey(tcti=tpm.tcti, copyable=True)
    (made,) = kind.init(tmp_path, "planner").identities
    assert made.protection is Protection.SOFTWARE
    assert str(made.key.spec).endswith(";unsafe-copyable=true")


@pytest.mark.needs("tpm2-pytss")
def test_without_a_tpm_nothing_is_left_to_clear_up(tmp_path: Path) -> None:
    kind = Kind(TpmKey(tcti="swtpm:path=/no/such/socket"), None, "tls.tpm.pem", Protection.TPM)
    with pytest.raises(SignError) as caught:
        kind.init(tmp_path, "planner")
    assert caught.value.code is SignCode.UNAVAILABLE
    assert not (tmp_path / "planner").exists()


# -- a token --------------------------------------------------------------------------------------------------------------


def labels(hsm: SoftHsm) -> list[str]:
    from pkcs11.constants import Attribute, ObjectClass

    with hsm.session() as session:
        found = session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY})
        return sorted(key[Attribute.LABEL] for key in found)


@token_only
def test_objects_are_labelled_by_agent_and_instance(kind: Kind, hsm: SoftHsm, tmp_path: Path) -> None:
    kind.init(tmp_path, "planner", "tools", instance="blue")
    assert labels(hsm) == ["planner-blue", "tools-blue"]


@token_only
def test_the_old_object_is_named_and_stays(kind: Kind, hsm: SoftHsm, tmp_path: Path) -> None:
    (first,) = kind.init(tmp_path, "planner").identities
    (second,) = kind.init(tmp_path, "planner", new_keys=True).identities
    assert second.unused == (str(first.key.spec),)
    assert labels(hsm) == ["planner-1", "planner-1~2"]


@token_only
def test_a_folder_that_was_lost_finds_its_keys_again(kind: Kind, hsm: SoftHsm, tmp_path: Path) -> None:
    (first,) = kind.init(tmp_path / "a", "planner").identities
    (second,) = kind.init(tmp_path / "b", "planner").identities
    assert (second.pin, second.news) == (first.pin, "key kept")
    assert labels(hsm) == ["planner-1"]
    (tmp_path / "a/planner/tls.pkcs11.uri").unlink()
    assert kind.init(tmp_path / "a", "planner").identities[0].pin == first.pin
    assert (tmp_path / "a/planner/tls.pkcs11.uri").read_text() == f"{first.key.spec}\n"


@token_only
def test_somebody_else_s_object_is_neither_taken_nor_replaced(kind: Kind, hsm: SoftHsm, tmp_path: Path) -> None:
    from sidecar.keys.pkcs11.create import create, find

    theirs = create(hsm.spec("planner-1"), ec.SECP256R1, kind.pin)
    (made,) = kind.init(tmp_path / "a", "planner").identities
    assert labels(hsm) == ["planner-1", "planner-1~2"]
    assert kind.opens(made)
    found = find(hsm.spec("planner-1"), kind.pin)
    assert found is not None
    assert found[0] == theirs != made.key.public_key


@token_only
@pytest.mark.parametrize(
    ("first", "second"),
    [({"instance": "b-c"}, {"instance": "c"}), ({"trust_domain": "a.org"}, {"trust_domain": "b.org"})],
    ids=["a dash", "trust domains"],
)
def test_identities_with_one_label_never_share_a_key(
    kind: Kind, tmp_path: Path, first: dict[str, str], second: dict[str, str]
) -> None:
    (one,) = kind.init(tmp_path / "a", "a", **first).identities
    (two,) = kind.init(tmp_path / "b", "a-b" if second.get("instance") else "a", **second).identities
    assert one.pin != two.pin
    assert kind.init(tmp_path / "b", "a-b" if second.get("instance") else "a", **second).identities[0].pin == two.pin


@token_only
def test_an_object_that_is_gone(kind: Kind, hsm: SoftHsm, tmp_path: Path) -> None:
    from pkcs11.constants import Attribute

    kind.init(tmp_path, "planner")
    with hsm.session() as session:
        for found in list(session.get_objects({Attribute.LABEL: "planner-1"})):
            found.destroy()
    error = refused(tmp_path, kind.init, "planner")
    assert error.code is DevCertsCode.KEY_LOST
    assert "planner-1 in the token" in str(error)
    assert kind.opens(kind.init(tmp_path, "planner", new_keys=True).identities[0])


@token_only
def test_another_way_to_the_same_token_is_written_down(kind: Kind, hsm: SoftHsm, tmp_path: Path) -> None:
    (first,) = kind.init(tmp_path, "planner").identities
    moved = tmp_path / "pin"
    files.write(files.NewFile(moved, hsm.pin_file.read_bytes(), files.PRIVATE))
    kind.device = replace(kind.device, pin_source=moved)
    (second,) = kind.init(tmp_path, "planner").identities
    assert second.pin == first.pin
    assert f"pin-source=file:{moved}\n" in (tmp_path / "planner/tls.pkcs11.uri").read_text()


@token_only
def test_a_wrong_pin_of_a_token_is_tried_once(kind: Kind, hsm: SoftHsm, tmp_path: Path) -> None:
    kind.init(tmp_path, "planner")
    before = contents(tmp_path)
    tried: list[bytes] = []
    login = hsm.module.login
    hsm.module.login = lambda session, pin: (tried.append(pin), login(session, pin))[1]  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(SignError) as caught:
            kind.init(tmp_path, "planner", "tools", pin=b"wrong")
        assert caught.value.code is SignCode.AUTH
    assert tried == [b"wrong"]
    assert contents(tmp_path) == before


# -- --key ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("tpm", TpmKey()),
        ("tpm:", TpmKey()),
        ("TPM", TpmKey()),
        ("tpm:tcti=device:/dev/tpmrm1", TpmKey(tcti="device:/dev/tpmrm1")),
        ("tpm:tcti=swtpm:path=/s;pin-source=file:p", TpmKey(tcti="swtpm:path=/s", pin_source=BASE / "p")),
        ("tpm:unsafe-copyable=true", TpmKey(copyable=True)),
        ("pkcs11:?module-path=m.so", Pkcs11Key(BASE / "m.so")),
        (
            "pkcs11:token=t;serial=7?module-path=/m.so&pin-source=file:/p",
            Pkcs11Key(Path("/m.so"), token="t", serial="7", pin_source=Path("/p")),
        ),
    ],
)
def test_what_can_be_asked_for(text: str, device: Device) -> None:
    assert parse_device(text, BASE) == device


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", DevCertsCode.KEY_PLACE_INVALID),
        ("file", DevCertsCode.KEY_PLACE_INVALID),
        ("/k.pem", DevCertsCode.KEY_PLACE_INVALID),
        ("signer:unix:/s", DevCertsCode.KEY_PLACE_INVALID),
        ("tpm:handle=0x81000002", DevCertsCode.KEY_PLACE_INVALID),
        ("tpm:file=k", DevCertsCode.KEY_PLACE_INVALID),
        ("pkcs11:token=t;object=x?module-path=/m.so", DevCertsCode.KEY_PLACE_INVALID),
        ("pkcs11:id=%01?module-path=/m.so", DevCertsCode.KEY_PLACE_INVALID),
        ("tpm:nonsense=1", KeyCode.BAD_PLACE),
        ("tpm:pin-source=env:PIN", KeyCode.BAD_PLACE),
        ("pkcs11", KeyCode.BAD_PLACE),
        ("pkcs11:token=t", KeyCode.BAD_PLACE),
        ("pkcs11:token=t?module-path=/m.so&pin-value=1234", KeyCode.SECRET),
    ],
)
def test_what_cannot_be_asked_for(text: str, code: DevCertsCode | KeyCode) -> None:
    with pytest.raises(SidecarError) as caught:
        parse_device(text, BASE)
    assert caught.value.code is code
    assert caught.value.hint
    assert "1234" not in str(caught.value) + caught.value.hint


@given(st.sampled_from(["tpm:", "pkcs11:", ""]), st.text(st.characters(codec="utf-8"), max_size=20))
def test_no_text_names_a_key(kind: str, text: str) -> None:
    """Invariant: whatever --key says, the result names no single key, or one of the two errors is raised."""
    try:
        found = parse_device(kind + text, BASE)
    except (DevCertsError, PrivateKeyError):
        return
    if isinstance(found, TpmKey):
        assert found.handle is found.file is None
    else:
        assert found.object is found.id is None
