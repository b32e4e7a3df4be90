"""A vendor's PKCS#11 library in this process: loaded once, started, and one call at a time.

python-pkcs11 starts a module without asking it for locks of its own (``C_Initialize(NULL)``), so that no two threads may
be in it at once, whatever tokens they use: hence ``Module.alone``, in which everything of this package happens.

Two things it does not offer, so they go through the module's function table (PKCS#11 v2.40 base, 5.1):

* ``C_Login`` on a session that is open already. Its own login leaves the session behind when the PIN is wrong, and its
  own ``close`` of such a session logs the whole process out, other sessions included.
* ``C_Finalize`` without the interpreter's lock: a module whose device hangs must not stop the event loop.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

import pkcs11
from pkcs11 import exceptions as ckr

from sidecar.keys.error_queue import untouched
from sidecar.keys.errors import KeyCode, PrivateKeyError, SignCode, SignError
from sidecar.keys.pkcs11 import failures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pkcs11.types import Slot

#: A token: its slot and its serial number.
Place: TypeAlias = tuple[int, bytes]

_CKU_USER: Final = 1
_CKR_OK: Final = 0x0

#: What C_Login says of its own accord (PKCS#11 v3.1 5.6.8); all the rest has a number only.
_LOGIN_CODES: Final[dict[int, type[ckr.PKCS11Error]]] = {
    0x02: ckr.HostMemory,
    0x05: ckr.GeneralError,
    0x06: ckr.FunctionFailed,
    0x30: ckr.DeviceError,
    0x31: ckr.DeviceMemory,
    0x32: ckr.DeviceRemoved,
    0xA0: ckr.PinIncorrect,
    0xA1: ckr.PinInvalid,
    0xA2: ckr.PinLenRange,
    0xA3: ckr.PinExpired,
    0xA4: ckr.PinLocked,
    0xB0: ckr.SessionClosed,
    0xB3: ckr.SessionHandleInvalid,
    0xE0: ckr.TokenNotPresent,
    0x100: ckr.UserAlreadyLoggedIn,
    0x102: ckr.UserPinNotInitialized,
}


class _FunctionList(ctypes.Structure):
    """CK_FUNCTION_LIST of version 2.x, which every later module gives as well: a version, then 68 functions in order."""

    _fields_ = (("version", ctypes.c_ubyte * 2), ("functions", ctypes.c_void_p * 68))


_C_INITIALIZE: Final = 0
_C_FINALIZE: Final = 1
_C_LOGIN: Final = 18
_ONE_POINTER: Final = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)
_LOGIN_TYPE: Final = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong)


class Module:
    """One library file. Whoever calls a method, or anything of a session, does so within ``alone``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        #: How many sessions of ours are open, on all its tokens.
        self.sessions = 0
        #: The PIN of each session that is logged in, and the PINs that a token refused.
        self.pins: dict[Place, list[bytes]] = {}
        self.refused: set[tuple[Place, bytes]] = set()
        self._functions: _FunctionList | None = None
        self._library: pkcs11._pkcs11.lib | None = None
        self._started = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps every other thread out of the library; what it leaves in OpenSSL's error queue stays within."""
        with self._lock, untouched():
            yield

    def start(self) -> None:
        """Loads the library, the first time, and starts it. Raises PrivateKeyError, SignError."""
        if self._library is None:
            self._functions = _function_list(self.path)
            with failures.translated():
                self._library = pkcs11.lib(str(self.path))
            # At exit the interpreter would free this object, and with it unload the library, under the feet of a
            # daemon thread that is inside of it. One reference that nobody gives back prevents that.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._library))
            self._started = True
        elif not self._started:
            self.restart()

    def restart(self) -> None:
        """Ends and starts the module where no session of ours is open: many see a device that came back only then."""
        if self.sessions:
            return
        self._started = False
        self._call(_C_FINALIZE)  # it may be ended already: then it says so, and that is well
        if self._call(_C_INITIALIZE) != _CKR_OK:
            raise SignError(
                SignCode.UNAVAILABLE, "the PKCS#11 module does not start again", hint="is its device there?"
            )
        self._started = True

    def slots(self) -> list[Slot]:
        """The slots with a token in them."""
        assert self._library is not None  # noqa: S101 - started by whoever asks
        return self._library.get_slots(token_present=True)

    def login(self, session: int, pin: bytes) -> None:
        """Logs this process in as the token's user, by any of its sessions. Raises PKCS11Error."""
        code = _LOGIN_TYPE(self._function(_C_LOGIN))(session, _CKU_USER, pin, len(pin))
        if code != _CKR_OK:
            raise _LOGIN_CODES[code] if code in _LOGIN_CODES else ckr.PKCS11Error(f"{code:#x}")

    def _call(self, index: int) -> int:
        return int(_ONE_POINTER(self._function(index))(None))

    def _function(self, index: int) -> int:
        assert self._functions is not None  # noqa: S101 - started by whoever asks
        return int(self._functions.functions[index])


_modules: Final[dict[Path, Module]] = {}
_modules_lock: Final = threading.Lock()


def module(path: Path) -> Module:
    """Returns the one of that file, not yet started. Two names of one file are the same library to the loader."""
    real = path.resolve()
    with _modules_lock:
        return _modules.setdefault(real, Module(real))


def _function_list(path: Path) -> _FunctionList:
    try:
        get = ctypes.CDLL(str(path)).C_GetFunctionList
    except OSError as error:
        raise PrivateKeyError(
            KeyCode.NO_LIBRARY,
            f"the PKCS#11 module {path} does not load: {error}" if path.exists() else f"there is no file {path}",
            hint="module-path names the library (.so) that the token's vendor provides; install it",
        ) from error
    except AttributeError:
        raise PrivateKeyError(
            KeyCode.NO_LIBRARY,
            f"the library {path} is no PKCS#11 module: it has no C_GetFunctionList",
            hint="module-path names the library (.so) that the token's vendor provides",
        ) from None
    found = ctypes.POINTER(_FunctionList)()
    if get(ctypes.byref(found)) != _CKR_OK or not found:
        raise PrivateKeyError(KeyCode.NO_LIBRARY, f"the PKCS#11 module {path} does not show its functions")
    return found.contents
