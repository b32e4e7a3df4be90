"""Makes a key in a TPM that cannot leave it, under a storage key that cannot either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.keys.errors import KeyCode, PrivateKeyError
from sidecar.keys.tpm import public
from sidecar.keys.tpm.codes import OWNER_AUTH, translated
from sidecar.keys.tpm.context import Context
from sidecar.keys.tpm.tss2 import OWNER, Wrapped

if TYPE_CHECKING:
    from sidecar.keys.spec import TpmKey

#: Where the TCG's provisioning guidance has the storage key of a machine (the "SRK"; table 2).
STORAGE_KEY: Final = 0x81000001
#: From here on persistent objects are the platform's (TPM 2.0 part 2, 7.4), which we cannot speak for.
PLATFORM: Final = 0x81800000
#: The longest authorisation value of a key that is named by SHA-256, as ours are.
PIN_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Created:
    """``pem`` is what ``spec.file`` should hold; None for a key that is persistent in the TPM."""

    public_key: ec.EllipticCurvePublicKey
    pem: bytes | None


def create(spec: TpmKey, curve: type[ec.EllipticCurve], pin: bytes | None) -> Created:
    """Makes a key for ``spec``; writes no file and overwrites nothing. Raises PrivateKeyError or SignError."""
    public.demand_pin_fits(len(pin or b""), PIN_BYTES)
    if spec.handle is not None and spec.handle >= PLATFORM:
        raise PrivateKeyError(
            KeyCode.BAD_PLACE,
            f"{spec.handle:#010x} is among the platform's handles",
            hint=f"choose one from 0x81000002 to {PLATFORM - 1:#010x}",
        )
    with Context(spec.tcti) as tpm:
        if spec.handle is not None and tpm.is_occupied(spec.handle):
            raise _exists(spec.handle)
        return _create(tpm, spec.handle, curve, pin)


def _create(tpm: Context, handle: int | None, curve: type[ec.EllipticCurve], pin: bytes | None) -> Created:
    tss = tpm.library
    parent_handle = STORAGE_KEY if _is_suitable(tpm) else OWNER
    with tpm.storage_key(parent_handle) as parent:
        sensitive = tss.TPM2B_SENSITIVE_CREATE()
        if pin is not None:
            sensitive.sensitive.userAuth = pin
        with translated(tss, "making a key in the TPM", auth=OWNER_AUTH):
            private, made = tpm.esys.create(parent, sensitive, _template(tss, curve, has_pin=pin is not None))[:2]
        area = public.parse(bytes(made.marshal()))
        # The TPM does as it is asked; but a key that it made otherwise must not get a certificate.
        public.demand_usable(area, copyable=False)
        if handle is not None:
            _keep(tpm, tpm.load(parent, private, made), handle)
            return Created(area.key, None)
    wrapped = Wrapped(area, parent_handle, pin is None, bytes(private.marshal()))
    return Created(area.key, wrapped.pem())


def _keep(tpm: Context, key: Any, handle: int) -> None:
    """Makes a loaded key persistent, and flushes it."""
    tss = tpm.library
    with tpm.flushed(key), translated(tss, f"making the key persistent at {handle:#010x}", auth=OWNER_AUTH):
        try:
            tpm.esys.evict_control(tss.ESYS_TR.OWNER, key, handle)
        except tss.TSS2_Exception as error:
            if error.rc == tss.TPM2_RC.NV_DEFINED:  # somebody was faster
                raise _exists(handle) from None
            raise


def _is_suitable(tpm: Context) -> bool:
    """Says whether the persistent storage key is there, keeps what it wraps in this TPM, and wants no policy.

    Nor may it be subject to the lockout: we try it with an empty password.
    """
    if not tpm.is_occupied(STORAGE_KEY):
        return False
    tss, attribute = tpm.library, tpm.library.TPMA_OBJECT
    handle = tpm.persistent(STORAGE_KEY)
    with translated(tss, "reading the TPM's storage key"):
        found = tpm.esys.read_public(handle)[0]
    want = (
        attribute.FIXEDTPM
        | attribute.FIXEDPARENT
        | attribute.RESTRICTED
        | attribute.DECRYPT
        | attribute.USERWITHAUTH
        | attribute.NODA
    )
    have = int(found.publicArea.objectAttributes)
    asymmetric = int(found.publicArea.type) in {int(tss.TPM2_ALG.ECC), int(tss.TPM2_ALG.RSA)}
    return asymmetric and have & (want | attribute.SIGN_ENCRYPT) == want


def _template(tss: Any, curve: type[ec.EllipticCurve], *, has_pin: bool) -> Any:
    curves = {ec.SECP256R1: tss.TPM2_ECC.NIST_P256, ec.SECP384R1: tss.TPM2_ECC.NIST_P384}
    if curve not in curves:
        raise PrivateKeyError(KeyCode.UNSUPPORTED, f"no key is made on {curve.name}; {public.SUPPORTED}")
    attribute = tss.TPMA_OBJECT
    attributes = (
        attribute.FIXEDTPM
        | attribute.FIXEDPARENT
        | attribute.SENSITIVEDATAORIGIN
        | attribute.USERWITHAUTH
        | attribute.SIGN_ENCRYPT
    )
    # A PIN is short: without the lockout whoever has the TPM could try all. Without a PIN there is nothing to guess.
    area = tss.TPMT_PUBLIC(
        type=tss.TPM2_ALG.ECC,
        nameAlg=tss.TPM2_ALG.SHA256,
        objectAttributes=attributes if has_pin else attributes | attribute.NODA,
    )
    detail = area.parameters.eccDetail
    detail.curveID = curves[curve]
    detail.scheme.scheme = detail.kdf.scheme = detail.symmetric.algorithm = tss.TPM2_ALG.NULL
    return tss.TPM2B_PUBLIC(publicArea=area)


def _exists(handle: int) -> PrivateKeyError:
    return PrivateKeyError(
        KeyCode.EXISTS,
        f"there is an object at {handle:#010x} already, which stays as it is",
        hint=f"choose another handle, or remove it for good: tpm2_evictcontrol -c {handle:#010x}",
    )
