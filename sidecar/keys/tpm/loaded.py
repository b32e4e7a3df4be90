"""Our key in a TPM, for as long as one connection to it lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from sidecar.keys.signer import Hash
from sidecar.keys.tpm import public
from sidecar.keys.tpm.codes import BAD_SIGNATURE, NOT_OURS, TpmError, translated
from sidecar.keys.tpm.context import Context

if TYPE_CHECKING:
    from sidecar.keys.tpm.public import PublicArea
    from sidecar.keys.tpm.tss2 import Wrapped

_SIGNING: Final = "signing in the TPM"


class LoadedKey:
    """``area`` is what the TPM says of it. Raises TpmError; after one the caller decides whether to go on with it."""

    def __init__(self, tcti: str | None, place: Wrapped | int, pin: bytes | None) -> None:
        """``place`` is a persistent handle, or a wrapped key to load."""
        self._context = Context(tcti)
        self._transient = not isinstance(place, int)
        self._handle: Any = None
        try:
            self._handle = self._context.persistent(place) if isinstance(place, int) else self._load(place)
            with translated(self._context.library, "reading the TPM key"):
                self.area: PublicArea = public.parse(self._context.public(self._handle))
                public.demand_pin_fits(len(pin or b""), self.area.pin_bytes)
                self._context.esys.tr_set_auth(self._handle, pin)
        except BaseException:
            if self._transient and self._handle is not None:
                self._context.flush(self._handle)
            self._context.close()
            raise
        self._schemes = {hash_: self._scheme(hash_) for hash_ in Hash}
        self._ticket = self._no_ticket()

    def _load(self, wrapped: Wrapped) -> Any:
        tss = self._context.library
        with translated(tss, "reading the wrapped key"):
            private, area = (
                tss.TPM2B_PRIVATE.unmarshal(wrapped.private)[0],
                tss.TPM2B_PUBLIC.unmarshal(wrapped.area.raw)[0],
            )
        with self._context.storage_key(wrapped.parent) as parent:
            return self._context.load(parent, private, area)

    def sign(self, digest: bytes, hash_: Hash) -> bytes:
        """Signs with one TPM command, and looks whether the signature is by this key: see `Context.names`."""
        try:
            with translated(self._context.library, _SIGNING):
                made = self._context.esys.sign(self._handle, digest, self._schemes[hash_], self._ticket)
        except TpmError as error:
            # Somebody else's key has another PIN and other uses. Where the TPM does not say whose it is, it is ours: a
            # PIN that was refused must not be sent again.
            if not error.again and self._context.names(self._handle, self.area.raw) is False:
                raise TpmError(NOT_OURS, _SIGNING) from None
            raise
        numbers = made.signature.ecdsa
        r, s = (int.from_bytes(bytes(number)) for number in (numbers.signatureR, numbers.signatureS))
        signature = encode_dss_signature(r, s)
        try:
            self.area.key.verify(signature, digest, ec.ECDSA(Prehashed(hash_.algorithm)))
        except InvalidSignature:
            raise TpmError(BAD_SIGNATURE, _SIGNING) from None
        return signature

    def release(self) -> None:
        """Flushes the key if it is ours still, and closes the connection. Never raises."""
        if self._transient and self._context.names(self._handle, self.area.raw):
            self._context.flush(self._handle)
        self._context.close()

    def _scheme(self, hash_: Hash) -> Any:
        tss = self._context.library
        scheme = tss.TPMT_SIG_SCHEME(scheme=tss.TPM2_ALG.ECDSA)
        scheme.details.ecdsa.hashAlg = tss.TPM2_ALG.SHA384 if hash_ is Hash.SHA384 else tss.TPM2_ALG.SHA256
        return scheme

    def _no_ticket(self) -> Any:
        """What an unrestricted key wants instead of a proof that the TPM hashed the message itself."""
        tss = self._context.library
        return tss.TPMT_TK_HASHCHECK(tag=tss.TPM2_ST.HASHCHECK, hierarchy=tss.TPM2_RH.NULL)
