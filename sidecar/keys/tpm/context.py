"""One connection to a TPM, which leaves nothing behind in it: every object made here is flushed by the block's end.

A TPM without a resource manager has three slots for objects; what is not flushed stays until it is reset.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Self

from sidecar.keys.tpm import library
from sidecar.keys.tpm.codes import OWNER_AUTH, translated
from sidecar.keys.tpm.tss2 import OWNER
from sidecar.keys.uri import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The kernel's resource manager, which gives each process slots of its own.
DEFAULT_TCTI: Final = "device:/dev/tpmrm0"


class Context:
    """An ESYS context. Raises TpmError for all that the TPM refuses; not for use by two threads at once."""

    def __init__(self, tcti: str | None) -> None:
        self.library: Any = library.load()
        name = DEFAULT_TCTI if tcti is None else tcti
        with translated(self.library, f"the TPM at {shown(name)}"):
            # Two steps: in one, ESAPI would not close the connection when it fails itself.
            self._tcti = self.library.TCTILdr.parse(name)
            try:
                self.esys = self.library.ESAPI(self._tcti)
            except BaseException:
                self._tcti.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; sends no command, and works when the TPM is gone."""
        self.esys.close()
        self._tcti.close()

    def flush(self, handle: Any) -> None:
        """Frees a slot. A TPM that is gone has lost its objects too, so that failures mean nothing."""
        with suppress(self.library.TSS2_Exception):
            self.esys.flush_context(handle)

    def names(self, handle: Any, public: bytes) -> bool | None:
        """Says whether a handle names that very object: after a reset it may be another. None if the TPM does not say."""
        with suppress(self.library.TSS2_Exception):
            return self.public(handle) == public
        return None

    @contextmanager
    def flushed(self, handle: Any) -> Iterator[Any]:
        """Frees a slot at the end of the block, however it ends."""
        try:
            yield handle
        finally:
            self.flush(handle)

    def public(self, handle: Any) -> bytes:
        """The TPM2B_PUBLIC of an object."""
        area = self.esys.read_public(handle)[0]
        return bytes(area.marshal())

    def persistent(self, handle: int) -> Any:
        """Names an object that is in the TPM for good: there is nothing to flush."""
        with translated(self.library, f"the TPM's object {handle:#010x}"):
            return self.esys.tr_from_tpmpublic(handle)

    def is_occupied(self, handle: int) -> bool:
        """Says whether there is an object at a persistent handle."""
        with translated(self.library, "the list of the TPM's objects"):
            _, found = self.esys.get_capability(self.library.TPM2_CAP.HANDLES, handle, 1)
            # The list begins with the first object at or after that handle.
            handles = found.data.handles
            return handles.count > 0 and int(handles[0]) == handle

    @contextmanager
    def storage_key(self, handle: int) -> Iterator[Any]:
        """The parent of wrapped keys: a persistent one, or the primary key of the owner hierarchy, flushed at the end."""
        if handle != OWNER:
            yield self.persistent(handle)
            return
        with translated(self.library, "the storage key of the TPM's owner hierarchy", auth=OWNER_AUTH):
            primary = self.esys.create_primary(None, self._storage_template(), self.library.ESYS_TR.OWNER)[0]
        with self.flushed(primary):
            yield primary

    def load(self, parent: Any, private: Any, public: Any) -> Any:
        """Loads a wrapped key; the caller flushes it."""
        with translated(self.library, "loading the wrapped key into the TPM", auth=OWNER_AUTH):
            return self.esys.load(parent, private, public)

    def _storage_template(self) -> Any:
        """What tpm2-openssl and tpm2-tss-engine take for parent 0x40000001; any other bit would make another key."""
        tss, attribute = self.library, self.library.TPMA_OBJECT
        area = tss.TPMT_PUBLIC(
            type=tss.TPM2_ALG.ECC,
            nameAlg=tss.TPM2_ALG.SHA256,
            objectAttributes=attribute.USERWITHAUTH
            | attribute.RESTRICTED
            | attribute.DECRYPT
            | attribute.NODA
            | attribute.FIXEDTPM
            | attribute.FIXEDPARENT
            | attribute.SENSITIVEDATAORIGIN,
        )
        detail = area.parameters.eccDetail
        detail.curveID = tss.TPM2_ECC.NIST_P256
        detail.scheme.scheme = detail.kdf.scheme = tss.TPM2_ALG.NULL
        detail.symmetric.algorithm = tss.TPM2_ALG.AES
        detail.symmetric.keyBits.aes = 128
        detail.symmetric.mode.aes = tss.TPM2_ALG.CFB
        return tss.TPM2B_PUBLIC(publicArea=area)
