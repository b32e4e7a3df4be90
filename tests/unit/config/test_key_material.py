"""What a configuration shows of a key in a device, without the device: nothing here has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.config.faults import ConfigCode
from sidecar.keys.errors import KeyCode
from sidecar.keys.protection import Protection
from sidecar.keys.spec import RemoteKey, TpmKey
from sidecar.keys.uri import Pkcs11Key
from tests.support.configuration import Workspace, edit

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec


def keyed(place: str) -> str:
    """The valid file with that key."""
    return edit("planner.key", f'"{place}"')


def written(workspace: Workspace, name: str, data: bytes, mode: int = 0o600) -> Path:
    path = workspace.folder / name
    path.write_bytes(data)
    path.chmod(mode)
    return path


def wrapped(public_key: ec.EllipticCurvePublicKey, *, copyable: bool = False) -> bytes:
    """A wrapped key as a TPM writes it, whose private part is of no TPM."""
    from sidecar.keys.tpm.public import Attribute, parse
    from sidecar.keys.tpm.tss2 import OWNER, Wrapped

    attributes = Attribute.SIGN | Attribute.USER_WITH_AUTH
    if not copyable:
        attributes |= Attribute.FIXED_TPM | Attribute.FIXED_PARENT | Attribute.SENSITIVE_DATA_ORIGIN
    point = public_key.public_numbers()
    # TPMT_PUBLIC: ECC, SHA-256, attributes, no policy, no symmetric cipher, no scheme, P-256, no KDF, and the point.
    body = bytes.fromhex("0023000b") + attributes.to_bytes(4) + bytes.fromhex("00000010001000030010")
    body += b"".join(b"\0\x20" + number.to_bytes(32) for number in (point.x, point.y))
    area = parse(len(body).to_bytes(2) + body)
    return Wrapped(area, OWNER, empty_auth=True, private=b"\0\x40" + bytes(64)).pem()


def test_a_signer_service_is_named_and_not_called(workspace: Workspace) -> None:
    key = workspace.load(keyed("signer:unix:signer.sock")).material.key
    assert key.spec == RemoteKey(workspace.folder / "signer.sock")
    assert (key.public_key, key.software, key.protection) == (None, None, Protection.REMOTE)


def test_a_persistent_key_is_named_and_the_tpm_is_not_opened(workspace: Workspace) -> None:
    written(workspace, "pin", b"1234\n")
    loaded = workspace.load(keyed("tpm:handle=0x81000002;tcti=swtpm:path=/nowhere;pin-source=file:pin"))
    key = loaded.material.key
    assert key.spec == TpmKey(0x81000002, None, "swtpm:path=/nowhere", workspace.folder / "pin")
    assert (key.public_key, key.protection, key.secrets.pin) == (None, Protection.TPM, b"1234")
    assert "1234" not in repr(loaded)
    assert workspace.folder / "pin" in loaded.snapshot.paths


def test_a_token_is_named_and_its_library_is_not_loaded(workspace: Workspace) -> None:
    written(workspace, "module.so", b"no library", 0o644)
    key = workspace.load(keyed("pkcs11:token=t;object=k?module-path=module.so")).material.key
    assert isinstance(key.spec, Pkcs11Key)
    assert (key.public_key, key.protection) == (None, Protection.HSM)


@pytest.mark.parametrize(
    "place",
    [
        "tpm:handle=0x81000002;unsafe-copyable=true",
        "pkcs11:object=k?module-path=module.so&unsafe-copyable=true",
    ],
)
def test_a_key_that_may_be_copied_is_called_software(workspace: Workspace, place: str) -> None:
    written(workspace, "module.so", b"")
    assert workspace.load(keyed(place)).material.protection is Protection.SOFTWARE


@pytest.mark.parametrize(
    ("data", "mode", "code"),
    [
        (None, 0, ConfigCode.FILE_MISSING),
        (b"1234", 0o644, ConfigCode.KEY_PERMISSIONS),
        (b"", 0o600, KeyCode.BAD_PIN),
        (b"1234\n5678\n", 0o600, KeyCode.BAD_PIN),
        (b"\xff", 0o600, KeyCode.BAD_PIN),
    ],
    ids=["missing", "open to the world", "empty", "two lines", "no text"],
)
def test_a_pin_that_cannot_be_used_is_a_fault_at_its_key(
    workspace: Workspace, data: bytes | None, mode: int, code: object
) -> None:
    if data is not None:
        written(workspace, "pin", data, mode)
    fault = workspace.fault(keyed("tpm:handle=0x81000002;pin-source=file:pin"))
    assert (fault.code, fault.key) == (code, "identity.key")
    assert fault.message.startswith(f"{workspace.folder}/pin: ")
    assert "1234" not in str(fault)


def test_a_library_that_is_not_there_is_a_fault(workspace: Workspace) -> None:
    fault = workspace.fault(keyed("pkcs11:object=k?module-path=nothing.so"))
    assert (fault.code, fault.key) == (ConfigCode.FILE_MISSING, "identity.key")
    assert "nothing.so: the PKCS#11 library cannot be found" in fault.message
    (workspace.folder / "folder.so").mkdir()
    assert workspace.fault(keyed("pkcs11:object=k?module-path=folder.so")).code is ConfigCode.FILE_NOT_REGULAR


def test_a_pin_in_the_place_itself_is_a_fault_that_does_not_show_it(workspace: Workspace) -> None:
    fault = workspace.fault(keyed("pkcs11:object=k?module-path=x.so&pin-value=98765"))
    assert fault.key == "identity.key"
    assert "98765" not in str(fault) + fault.hint


def test_a_wrapped_key_is_compared_with_the_certificate(workspace: Workspace) -> None:
    ours = workspace.identity.key.public_key()
    written(workspace, "key.pem", wrapped(ours))
    key = workspace.load(keyed("tpm:file=key.pem")).material.key
    assert key.public_key == ours
    assert key.protection is Protection.TPM


def test_a_wrapped_key_of_somebody_else_is_a_fault(workspace: Workspace) -> None:
    from tests.support.ca import keypair

    written(workspace, "key.pem", wrapped(keypair("somebody else").public_key()))
    fault = workspace.fault(keyed("tpm:file=key.pem"))
    assert fault.key == "identity.key"
    assert "the key is not the one in the certificate" in fault.message


@pytest.mark.parametrize(
    ("more", "made", "code"),
    [
        ("", {"copyable": True}, KeyCode.COPYABLE),
        (";pin-source=file:pin", {}, KeyCode.BAD_PIN),
    ],
    ids=["copyable", "a PIN too many"],
)
def test_what_the_tpm_would_refuse_is_refused_early(
    workspace: Workspace, more: str, made: dict[str, bool], code: KeyCode
) -> None:
    written(workspace, "pin", b"1234")
    written(workspace, "key.pem", wrapped(workspace.identity.key.public_key(), **made))
    fault = workspace.fault(keyed(f"tpm:file=key.pem{more}"))
    assert (fault.code, fault.key) == (code, "identity.key")


def test_a_wrapped_key_is_held_to_be_closed(workspace: Workspace) -> None:
    written(workspace, "key.pem", wrapped(workspace.identity.key.public_key()), 0o644)
    assert workspace.fault(keyed("tpm:file=key.pem")).code is ConfigCode.KEY_PERMISSIONS


def test_a_software_key_is_no_wrapped_one_and_the_reverse(workspace: Workspace) -> None:
    assert workspace.fault(keyed("tpm:file=planner.key")).code is KeyCode.NO_KEY
    written(workspace, "planner.key", wrapped(workspace.identity.key.public_key()))
    fault = workspace.fault()
    assert fault.code is KeyCode.UNSUPPORTED
    assert "TSS2" in fault.message
