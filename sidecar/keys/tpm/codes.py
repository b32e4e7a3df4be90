"""What a TPM's response code means for us: one table (TPM 2.0 part 2, 6.6; TSS 2.0 overview, 4).

A code has a layer (bits 16 to 23): the TPM itself, a resource manager that passes the TPM's codes on or uses the same
numbers, or the software between us. A code of the TPM in format one (bit 7) also
says which handle, parameter or session is meant; the number is left out here.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sidecar.keys.errors import SignCode, SignError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LAYER_SHIFT: Final = 16
#: The TPM, and the two layers of resource managers (the kernel's and tpm2-abrmd).
_TPM_LAYERS: Final = frozenset({0, 11, 12})
#: The way to the TPM.
_TCTI_LAYER: Final = 10
#: What the layers above say when an answer is missing, cut off, or due before the next command.
_BROKEN_OFF: Final = frozenset({0x07, 0x08, 0x09, 0x0A, 0x11, 0x13})
_FORMAT_ONE: Final = 0x080
#: The bits of a format-one code that are left without the number of a handle, parameter or session.
_FORMAT_ONE_ERROR: Final = 0x0BF


@dataclass(frozen=True, slots=True)
class Meaning:
    """``again``: a new connection and the key loaded anew may mend it."""

    code: SignCode
    words: str
    hint: str = ""
    again: bool = False


class TpmError(SignError):
    """What a TPM, or the way to it, said instead of an answer."""

    def __init__(self, meaning: Meaning, what: str) -> None:
        super().__init__(meaning.code, f"{what}: {meaning.words}", hint=meaning.hint)
        self.again = meaning.again


#: Each try feeds the dictionary attack lockout: neither is ever repeated.
_AUTH: Final = Meaning(
    SignCode.AUTH,
    "the TPM refused the PIN, or wants one",
    "put the right PIN into the file that pin-source= names, before a few more tries lock the TPM's keys",
)
#: The same where no PIN of ours is concerned.
OWNER_AUTH: Final = Meaning(
    SignCode.AUTH,
    "the TPM's owner hierarchy, or the storage key, has a password",
    "wrapped keys need a storage key without one: the owner makes it persistent at 0x81000001, "
    "and makes keys persistent: tpm2_evictcontrol -C o -P …",
)
_LOCKOUT: Final = Meaning(
    SignCode.LOCKOUT,
    "the TPM is locked out: it refuses every PIN, the right one too",
    "wait for its recovery time, or reset it: tpm2_dictionarylockout --clear-lockout",
)
_FULL: Final = Meaning(
    SignCode.FULL,
    "the TPM has no room for one more key or session",
    "use the resource manager (device:/dev/tpmrm0), or flush what others left: tpm2_flushcontext --transient-object",
)
_GONE: Final = Meaning(
    SignCode.NO_KEY,
    "the TPM has no such object",
    "was it evicted, or the TPM cleared? `tpm2_getcap handles-persistent` lists what is there",
    again=True,
)
_FOREIGN: Final = Meaning(
    SignCode.NO_KEY,
    "the TPM did not make this wrapped key, or was cleared since",
    "a wrapped key works in its own TPM alone: make a new one, and have a certificate issued for it",
)
_STARTING: Final = Meaning(
    SignCode.UNAVAILABLE, "the TPM was not started", "the firmware does it, or tpm2_startup", True
)
_BUSY: Final = Meaning(SignCode.UNAVAILABLE, "the TPM is busy", "try again later")
_ABSENT: Final = Meaning(
    SignCode.UNAVAILABLE,
    "the TPM cannot be reached",
    "is it there, and may this user open it (/dev/tpmrm0, group tss)? ;tcti= names another way to it, "
    "whose library (libtss2-tcti-…) has to be installed",
    again=True,
)
_CONFUSED: Final = Meaning(SignCode.FAILED, "tpm2-tss refused", "`tpm2_rc_decode` explains the number", again=True)
_REFUSED: Final = Meaning(SignCode.FAILED, "the TPM refused", "`tpm2_rc_decode` explains the number")
BAD_SIGNATURE: Final = Meaning(
    SignCode.BAD_SIGNATURE,
    "what came back is no signature by our key",
    "was the TPM reset, or does it fail? `sidecar key show` names the key that is there now",
    again=True,
)
#: Not told to anybody: the key is loaded anew.
NOT_OURS: Final = Meaning(SignCode.NO_KEY, "the handle names somebody else's key", "was the TPM reset?", again=True)
ANOTHER_KEY: Final = Meaning(
    SignCode.NO_KEY,
    "another key is there than when it was opened",
    "reload, with a certificate for the new key",
)

_ONE: Final = {0x08E: _AUTH, 0x0A2: _AUTH, 0x08B: _GONE, 0x09F: _FOREIGN}
_ZERO: Final = {
    0x100: _STARTING,
    # Contexts, objects, sessions, memory; and NV space, where a persistent key goes.
    **dict.fromkeys((0x901, 0x902, 0x903, 0x904, 0x905, 0x906, 0x14B), _FULL),
    # Yielded, cancelled, testing, retry, NV rate. tpm2-tss has repeated some of them before it told us.
    **dict.fromkeys((0x908, 0x909, 0x90A, 0x922, 0x920), _BUSY),
    # A handle or a session in the command refers to nothing: the TPM was reset.
    **dict.fromkeys((*range(0x910, 0x917), *range(0x918, 0x91F)), _GONE),
    0x921: _LOCKOUT,
}


def meaning(rc: int, auth: Meaning = _AUTH) -> Meaning:
    """Looks a response code up."""
    found = _look_up(rc >> _LAYER_SHIFT, rc & 0xFFFF)
    found = auth if found is _AUTH else found
    return Meaning(found.code, f"{found.words} ({rc:#x})", found.hint, found.again)


def _look_up(layer: int, code: int) -> Meaning:
    if layer == _TCTI_LAYER:
        return _ABSENT
    if layer not in _TPM_LAYERS:
        return _ABSENT if code in _BROKEN_OFF else _CONFUSED
    if code & _FORMAT_ONE:
        return _ONE.get(code & _FORMAT_ONE_ERROR, _REFUSED)
    return _ZERO.get(code, _REFUSED)


@contextmanager
def translated(library: Any, what: str, *, auth: Meaning = _AUTH) -> Iterator[None]:
    """Raises TpmError for what tpm2-tss raises; ``what`` says what was being done.

    ``auth`` says what an authorisation that was refused means.
    """
    try:
        yield
    except library.TSS2_Exception as error:
        raise TpmError(meaning(int(error.rc), auth), what) from None
