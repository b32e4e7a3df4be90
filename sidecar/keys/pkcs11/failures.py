"""What a PKCS#11 return code (v3.1 5.1) means for us: the one table."""

from __future__ import annotations

import contextlib
import re
import struct
from typing import TYPE_CHECKING, Final

from pkcs11 import exceptions as ckr

from sidecar.keys.errors import SignCode, SignError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The session, the login or the device is gone; a new session may find it again. The first two are also what a module
#: says of any trouble with its device or network, and the handles become invalid with a logout or when a key is deleted.
_LOST: Final = (
    ckr.GeneralError,
    ckr.FunctionFailed,
    ckr.DeviceError,
    ckr.DeviceRemoved,
    ckr.TokenNotPresent,
    ckr.TokenNotRecognised,
    ckr.SlotIDInvalid,
    ckr.SessionHandleInvalid,
    ckr.SessionClosed,
    ckr.UserNotLoggedIn,
    ckr.KeyHandleInvalid,
    ckr.ObjectHandleInvalid,
    ckr.OperationActive,
    ckr.OperationNotInitialized,
)
_FULL: Final = (ckr.SessionCount, ckr.DeviceMemory, ckr.HostMemory)
_AUTH: Final = (
    ckr.PinIncorrect,
    ckr.PinInvalid,
    ckr.PinLenRange,
    ckr.PinExpired,
    ckr.UserPinNotInitialized,
)

_MEANINGS: Final = (
    (
        _LOST,
        SignCode.UNAVAILABLE,
        "the token with our private key does not answer",
        "is it there, and its module running?",
    ),
    (_FULL, SignCode.FULL, "the token has no room for one more session or key", "end other programs that use it"),
    (
        _AUTH,
        SignCode.AUTH,
        "the token refuses the PIN",
        "correct the file of pin-source; each wrong try feeds its lock",
    ),
    ((ckr.PinLocked,), SignCode.LOCKOUT, "the token's PIN is locked", "let its security officer unlock it"),
)
#: A code that the library has no name for.
_NUMBER: Final = re.compile(r"0x[0-9a-f]{1,16}")


def lost(error: ckr.PKCS11Error) -> bool:
    """Says whether a new session may help."""
    return isinstance(error, _LOST)


def sign_error(error: ckr.PKCS11Error) -> SignError:
    """Names a return code; of the library's text only a number is taken."""
    name = type(error).__name__
    if type(error) is ckr.PKCS11Error and (number := _NUMBER.search(str(error))):
        name = number[0]
    for kinds, code, message, hint in _MEANINGS:
        if isinstance(error, kinds):
            return SignError(code, f"{message} ({name})", hint=hint)
    return SignError(SignCode.FAILED, f"the token with our private key failed ({name})")


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turns whatever the library raises about a token into SignError."""
    try:
        yield
    except ckr.PKCS11Error as error:
        raise sign_error(error) from error
    except (ValueError, struct.error) as error:
        # Attributes that are not what the standard says: the library unpacks them.
        raise SignError(SignCode.FAILED, "the token answers what PKCS#11 does not know") from error
