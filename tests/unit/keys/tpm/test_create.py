"""Keys that are made in a TPM, and whether other programs can use them."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from sidecar.keys.errors import KeyCode, PrivateKeyError, SignCode, SignError
from sidecar.keys.selftest import self_test
from sidecar.keys.serial import SerialSigner
from sidecar.keys.tpm import tss2
from sidecar.keys.tpm.context import Context
from sidecar.keys.tpm.create import create
from sidecar.keys.tpm.device import open_device
from sidecar.keys.tpm.public import Attribute
from sidecar.keys.tpm.tss2 import OWNER
from tests.support.swtpm import HANDLE, PIN, Swtpm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.keys.spec import TpmKey

pytestmark = pytest.mark.needs("swtpm", "tpm2-pytss")

STORAGE_KEY = 0x81000001
BOUND = Attribute.FIXED_TPM | Attribute.FIXED_PARENT | Attribute.SENSITIVE_DATA_ORIGIN
CURVES = [ec.SECP256R1, ec.SECP384R1]


@pytest.fixture
def tpm() -> Iterator[Swtpm]:
    with Swtpm() as started:
        yield started
        # Whatever the test did, what is tested left nothing loaded.
        assert started.transient_handles() == started.loaded_sessions() == []


def signed_by(spec: TpmKey, pem: bytes | None, pin: bytes | None = None) -> ec.EllipticCurvePublicKey:
    signer = SerialSigner(open_device(spec, pem, pin))
    try:
        self_test(signer)
        return signer.public_key
    finally:
        signer.close()


def keep_storage_key(tpm: Swtpm, template: str | None = None) -> None:
    """Puts a storage key at 0x81000001: the usual one, or one of another template."""
    with Context(tpm.tcti) as context:
        owner = context.library.ESYS_TR.OWNER
        if template is None:
            with context.storage_key(OWNER) as primary:
                context.esys.evict_control(owner, primary, STORAGE_KEY)
            return
        with context.flushed(context.esys.create_primary(None, template)[0]) as primary:
            context.esys.evict_control(owner, primary, STORAGE_KEY)


def tpm2(tpm: Swtpm, *words: str | Path) -> None:
    command = ["tpm2", *(str(word) for word in words), "-T", tpm.tcti]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("pin", [None, PIN], ids=["no-pin", "pin"])
def test_what_a_wrapped_key_is(tpm: Swtpm, curve: type[ec.EllipticCurve], pin: bytes | None) -> None:
    made = create(tpm.spec(), curve, pin)
    assert made.pem is not None
    wrapped = tss2.inspect(made.pem)
    assert wrapped.public_key == made.public_key == signed_by(tpm.spec(), made.pem, pin)
    assert isinstance(made.public_key.curve, curve)
    # A PIN is guarded by the lockout. Where there is none the lockout, which anybody can cause, must not stop us.
    expected = BOUND | Attribute.USER_WITH_AUTH | Attribute.SIGN
    assert wrapped.attributes == (expected if pin else expected | Attribute.NO_DA)
    assert (wrapped.parent, wrapped.empty_auth) == (tss2.OWNER, pin is None)
    assert tpm.persistent_handles() == []


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("pin", [None, PIN], ids=["no-pin", "pin"])
def test_a_persistent_key(tpm: Swtpm, curve: type[ec.EllipticCurve], pin: bytes | None) -> None:
    made = create(tpm.spec(handle=HANDLE), curve, pin)
    assert made.pem is None
    assert tpm.persistent_handles() == [HANDLE]
    tpm.restart()
    assert signed_by(tpm.spec(handle=HANDLE), None, pin) == made.public_key


def test_every_key_is_another(tpm: Swtpm) -> None:
    keys = [create(tpm.spec(), ec.SECP256R1, None).public_key for _ in range(4)]
    assert all(one != other for at, one in enumerate(keys) for other in keys[:at])


def test_nothing_is_overwritten(tpm: Swtpm) -> None:
    first = create(tpm.spec(handle=HANDLE), ec.SECP256R1, None)
    with pytest.raises(PrivateKeyError) as caught:
        create(tpm.spec(handle=HANDLE), ec.SECP384R1, PIN)
    assert caught.value.code is KeyCode.EXISTS
    assert "0x81000002" in str(caught.value)
    assert signed_by(tpm.spec(handle=HANDLE), None) == first.public_key
    create(tpm.spec(handle=HANDLE - 1), ec.SECP256R1, None)  # beside it there is room


def test_nothing_is_overwritten_in_a_race(tpm: Swtpm, monkeypatch: pytest.MonkeyPatch) -> None:
    create(tpm.spec(handle=HANDLE), ec.SECP256R1, None)
    monkeypatch.setattr(Context, "is_occupied", lambda *_: False)
    with pytest.raises(PrivateKeyError) as caught:
        create(tpm.spec(handle=HANDLE), ec.SECP256R1, None)
    assert caught.value.code is KeyCode.EXISTS


def test_what_is_refused(tpm: Swtpm) -> None:
    refusals = [
        (tpm.spec(handle=0x81800000), ec.SECP256R1, None, KeyCode.BAD_PLACE),
        (tpm.spec(), ec.SECP521R1, None, KeyCode.UNSUPPORTED),
        (tpm.spec(), ec.SECP256R1, b"x" * 33, KeyCode.BAD_PIN),
    ]
    for spec, curve, pin, code in refusals:
        with pytest.raises(PrivateKeyError) as caught:
            create(spec, curve, pin)
        assert caught.value.code is code
    assert create(tpm.spec(), ec.SECP256R1, b"x" * 32).pem


def test_no_tpm(tpm: Swtpm) -> None:
    tpm.kill()
    with pytest.raises(SignError) as caught:
        create(tpm.spec(), ec.SECP256R1, None)
    assert caught.value.code is SignCode.UNAVAILABLE
    tpm.start()


def test_no_room(tpm: Swtpm) -> None:
    with Context(tpm.tcti) as context:
        primaries = [context.esys.create_primary(None, "ecc")[0] for _ in range(2)]
        # Room for the storage key, and none for the key.
        with pytest.raises(SignError) as caught:
            create(tpm.spec(handle=HANDLE), ec.SECP256R1, None)
        assert caught.value.code is SignCode.FULL
        assert len(tpm.transient_handles()) == 2
        for primary in primaries:
            context.flush(primary)
    assert tpm.persistent_handles() == []


@pytest.mark.parametrize(
    "template", [None, "rsa2048:null:aes128cfb", "ecc256:null:aes128cfb"], ids=["usual", "rsa", "ecc"]
)
def test_the_storage_key_of_the_machine_is_used(tpm: Swtpm, template: str | None) -> None:
    """If it wants no lockout: the last two are not exempt from it, so that a wrong password would count."""
    keep_storage_key(tpm, template)
    made = create(tpm.spec(), ec.SECP256R1, PIN)
    assert made.pem is not None
    assert tss2.inspect(made.pem).parent == (STORAGE_KEY if template is None else tss2.OWNER)
    assert signed_by(tpm.spec(), made.pem, PIN) == made.public_key
    create(tpm.spec(handle=HANDLE), ec.SECP256R1, None)
    assert tpm.persistent_handles() == [STORAGE_KEY, HANDLE]


def test_a_signing_key_where_the_storage_key_should_be(tpm: Swtpm) -> None:
    create(tpm.spec(handle=STORAGE_KEY), ec.SECP256R1, None)
    made = create(tpm.spec(), ec.SECP256R1, None)
    assert made.pem is not None
    assert tss2.inspect(made.pem).parent == tss2.OWNER


def test_an_owner_hierarchy_with_a_password(tpm: Swtpm) -> None:
    """It is told; with the machine's storage key wrapped keys go on without it."""
    keep_storage_key(tpm)
    with Context(tpm.tcti) as context:
        context.esys.hierarchy_change_auth(context.library.ESYS_TR.OWNER, b"owner")
    made = create(tpm.spec(), ec.SECP256R1, None)
    signed_by(tpm.spec(), made.pem)
    with pytest.raises(SignError) as caught:
        create(tpm.spec(handle=HANDLE), ec.SECP256R1, None)
    assert caught.value.code is SignCode.AUTH
    assert "owner" in caught.value.hint
    assert tpm.persistent_handles() == [STORAGE_KEY]


# Other programs


@pytest.mark.parametrize("curve", CURVES)
def test_tpm2_pytss_makes_keys_for_us_and_uses_ours(tpm: Swtpm, curve: type[ec.EllipticCurve]) -> None:
    from tpm2_pytss.tsskey import TSSPrivKey

    for pin in (None, PIN):
        with Context(tpm.tcti) as context:
            tss = context.library
            number = tss.TPM2_ECC.NIST_P384 if curve is ec.SECP384R1 else tss.TPM2_ECC.NIST_P256
            theirs = TSSPrivKey.create_ecc(context.esys, curveID=number, password=pin).to_pem()
        assert signed_by(tpm.spec(), theirs, pin) == tss2.public_key_of(theirs)
        ours = create(tpm.spec(), curve, pin).pem
        assert ours is not None
        with Context(tpm.tcti) as context:
            loaded = TSSPrivKey.from_pem(ours).load(context.esys, pin)
            context.flush(loaded)


@pytest.mark.needs("tpm2-tools")
def test_tpm2_tools_sign_with_our_persistent_key(tpm: Swtpm, tmp_path: Path) -> None:
    made = create(tpm.spec(handle=HANDLE), ec.SECP256R1, PIN)
    (tmp_path / "message").write_bytes(b"a message")
    tpm2(tpm, "readpublic", "-c", f"{HANDLE:#x}", "-f", "pem", "-o", tmp_path / "public")
    assert load_pem_public_key((tmp_path / "public").read_bytes()) == made.public_key
    sign = ("sign", "-c", f"{HANDLE:#x}", "-p", PIN.decode(), "-g", "sha256", "-f", "plain")
    tpm2(tpm, *sign, "-o", tmp_path / "signature", tmp_path / "message")
    made.public_key.verify((tmp_path / "signature").read_bytes(), b"a message", ec.ECDSA(hashes.SHA256()))


@pytest.mark.needs("tpm2-tools")
def test_keys_of_tpm2_tools(tpm: Swtpm, tmp_path: Path) -> None:
    """As an administrator makes them: a persistent storage key, and below it a key, wrapped or persistent."""
    storage, area, private, key = (tmp_path / name for name in ("storage", "area", "private", "key"))
    attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"
    tpm2(tpm, "createprimary", "-C", "o", "-G", "ecc256:aes128cfb", "-c", storage)
    tpm2(tpm, "flushcontext", "-t")
    tpm2(tpm, "evictcontrol", "-C", "o", "-c", storage, f"{STORAGE_KEY:#x}")
    tpm2(tpm, "flushcontext", "-t")
    tpm2(
        tpm, "create", "-C", f"{STORAGE_KEY:#x}", "-G", "ecc384:ecdsa-sha384", "-a", attributes, "-p", PIN.decode(),
        "-u", area, "-r", private,
    )  # fmt: skip
    tpm2(tpm, "load", "-C", f"{STORAGE_KEY:#x}", "-u", area, "-r", private, "-c", key)
    tpm2(tpm, "flushcontext", "-t")
    tpm2(tpm, "evictcontrol", "-C", "o", "-c", key, f"{HANDLE:#x}")
    tpm2(tpm, "flushcontext", "-t")
    encode = ("encodeobject", "-C", f"{STORAGE_KEY:#x}", "-u", area, "-r", private, "-p", "-o", tmp_path / "pem")
    tpm2(tpm, *encode)
    pem = (tmp_path / "pem").read_bytes()
    tpm.restart()  # rids it of the sessions that the tools leave
    assert signed_by(tpm.spec(), pem, PIN) == signed_by(tpm.spec(handle=HANDLE), None, PIN) == tss2.public_key_of(pem)
