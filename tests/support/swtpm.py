"""Software TPMs: each a process of its own with a state of its own, behind a UNIX socket, so that none meets another.

    with Swtpm() as tpm:
        signer = make_key(tpm).open()

They have no resource manager: what is not flushed stays, and the fourth object finds no room. `SlowRelay` stands between
a TPM and whoever uses it, delays and counts commands.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from sidecar.keys.errors import SignError
from sidecar.keys.protection import Protection
from sidecar.keys.selftest import self_test
from sidecar.keys.serial import SerialSigner
from sidecar.keys.spec import TpmKey
from sidecar.keys.tpm import public
from sidecar.keys.tpm.context import Context
from sidecar.keys.tpm.create import create
from sidecar.keys.tpm.device import open_device
from sidecar.keys.tpm.tss2 import OWNER, Wrapped
from tests.support.eventually import eventually
from tests.support.signers import Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.keys.errors import SignCode
    from sidecar.keys.signer import Signer

    Serve = Callable[[socket.socket, socket.socket], None]

HANDLE = 0x81000002
PIN = b"the owl at 4"

# Command codes (TPM 2.0 part 2, 6.5.2), for `SlowRelay.commands`.
EVICT_CONTROL, CREATE_PRIMARY, CREATE, LOAD, SIGN = 0x120, 0x131, 0x153, 0x157, 0x15D
FLUSH_CONTEXT, READ_PUBLIC, GET_CAPABILITY = 0x165, 0x173, 0x17A

_TRANSIENT, _LOADED_SESSION, _SAVED_SESSION, _PERSISTENT = 0x80000000, 0x02000000, 0x03000000, 0x81000000
_HEADER = 10  # of a command and of an answer: tag, size, code
_MAX_MESSAGE = 4096
_MAX_CONNECTIONS = 64


class Swtpm:
    """One TPM. Its state outlives ``stop`` and ``kill``; a start after either is a reset of the TPM."""

    def __init__(self) -> None:
        # Not below TMPDIR, which may be long: the path of a UNIX socket has about 100 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="swtpm-", dir="/tmp"))
        self.socket = self.folder / "s"
        self.process: subprocess.Popen[bytes] | None = None
        (self.folder / "state").mkdir(mode=0o700)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def tcti(self) -> str:
        """How tpm2-tss reaches it; the control socket is expected beside."""
        return f"swtpm:path={self.socket}"

    def spec(self, *, handle: int | None = None, copyable: bool = False, tcti: str | None = None) -> TpmKey:
        """A key in it: persistent, or wrapped in a file that nobody reads."""
        file = Path("/not-read") if handle is None else None
        return TpmKey(handle=handle, file=file, tcti=tcti or self.tcti, copyable=copyable)

    def start(self) -> Self:
        """Powers it on. It is not manufactured (no endorsement certificate): 5 ms instead of a second."""
        control = self.socket.with_name("s.ctrl")
        for left in (self.socket, control):
            left.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [
                *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.folder}/state"),
                *("--server", f"type=unixio,path={self.socket}", "--ctrl", f"type=unixio,path={control}"),
                *("--flags", "not-need-init,startup-clear", "--log", f"file={self.folder}/log"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(lambda: self._is_up(control), "swtpm")
        return self

    def _is_up(self, control: Path) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        # A socket's file is there before anybody listens at it.
        return _accepts(self.socket) and _accepts(control)

    def stop(self) -> None:
        """Powers it off in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Pulls its plug."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Resets it: what is persistent stays."""
        self.stop()
        self.start()

    def hang(self) -> None:
        """Lets it answer nothing; returns when it is so."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Ends ``hang``."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def close(self) -> None:
        """Ends it and removes its state."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            if number is not signal.SIGKILL:
                self.resume()
            self.process.wait(10)
            self.process = None

    def transient_handles(self) -> list[int]:
        """Keys that are loaded, by anybody."""
        return self._handles(_TRANSIENT)

    def loaded_sessions(self) -> list[int]:
        """Sessions that are loaded or saved, by anybody."""
        return self._handles(_LOADED_SESSION) + self._handles(_SAVED_SESSION)

    def persistent_handles(self) -> list[int]:
        """Keys that survive a reset."""
        return self._handles(_PERSISTENT)

    def lockout_counter(self) -> int:
        """How many wrong PINs it has counted (TPM_PT_LOCKOUT_COUNTER)."""
        with Context(self.tcti) as tpm:
            tss = tpm.library
            _, found = tpm.esys.get_capability(tss.TPM2_CAP.TPM_PROPERTIES, tss.TPM2_PT.LOCKOUT_COUNTER, 1)
            return int(found.data.tpmProperties[0].value)

    def evict(self, handle: int) -> None:
        """Removes a persistent key."""
        with Context(self.tcti) as tpm:
            tpm.esys.evict_control(tpm.library.ESYS_TR.OWNER, tpm.persistent(handle), handle)

    def _handles(self, first: int) -> list[int]:
        with Context(self.tcti) as tpm:
            _, found = tpm.esys.get_capability(tpm.library.TPM2_CAP.HANDLES, first, 254)
            handles = found.data.handles  # lives as long as `found`
            return [int(handles[index]) for index in range(handles.count)]


@dataclass(slots=True)
class Made:
    """A key in a TPM, and the signers of it that ``close`` closes."""

    spec: TpmKey
    pem: bytes | None
    pin: bytes | None = None
    signers: list[SerialSigner] = field(default_factory=list)

    def open(self, *, pin: bytes | None = None, tcti: str | None = None, limit: float = 10.0) -> SerialSigner:
        spec = replace(self.spec, tcti=tcti or self.spec.tcti)
        self.signers.append(SerialSigner(open_device(spec, self.pem, pin or self.pin), limit=limit))
        return self.signers[-1]

    def close(self) -> None:
        for signer in self.signers:
            signer.close()


def make_key(
    tpm: Swtpm, curve: type[ec.EllipticCurve] = ec.SECP256R1, *, handle: int | None = None, pin: bytes | None = None
) -> Made:
    """Makes a key in the TPM as the product does."""
    spec = tpm.spec(handle=handle)
    return Made(spec, create(spec, curve, pin).pem, pin)


def outcome(signer: Signer) -> SignCode | None:
    """Why it does not sign; None if it does."""
    try:
        self_test(signer)
    except SignError as error:
        return error.code
    return None


@contextlib.contextmanager
def file_subject(curve: type[ec.EllipticCurve]) -> Iterator[Subject]:
    with Swtpm() as tpm, _subject(tpm, make_key(tpm, curve)) as made:
        yield made


@contextlib.contextmanager
def handle_subject(curve: type[ec.EllipticCurve]) -> Iterator[Subject]:
    with Swtpm() as tpm, _subject(tpm, make_key(tpm, curve, handle=HANDLE)) as made:
        yield made


@contextlib.contextmanager
def pin_subject(curve: type[ec.EllipticCurve]) -> Iterator[Subject]:
    with Swtpm() as tpm, _subject(tpm, make_key(tpm, curve, pin=PIN)) as made:
        yield made


@contextlib.contextmanager
def _subject(tpm: Swtpm, key: Made) -> Iterator[Subject]:
    yield Subject(key.open(), Protection.TPM, key.open)
    key.close()
    assert tpm.transient_handles() == tpm.loaded_sessions() == []


def import_key(tpm: Swtpm, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Wraps a software key, whose value is thus known, for the TPM: as TSS2 PEM, to be used with ``copyable``."""
    template = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with Context(tpm.tcti) as context, context.storage_key(OWNER) as parent:
        tss = context.library
        attributes = tss.TPMA_OBJECT.SIGN_ENCRYPT | tss.TPMA_OBJECT.USERWITHAUTH | tss.TPMA_OBJECT.NODA
        area = tss.TPM2B_PUBLIC(tss.TPMT_PUBLIC.from_pem(template, objectAttributes=attributes))
        sensitive = tss.TPM2B_SENSITIVE(tss.TPMT_SENSITIVE.from_pem(secret))
        # Neither an inner nor an outer wrapper: the key goes to the TPM in the clear.
        none = tss.TPMT_SYM_DEF_OBJECT(algorithm=tss.TPM2_ALG.NULL)
        duplicate = tss.TPM2B_PRIVATE(sensitive.marshal())
        private: Any = context.esys.import_(parent, b"", area, duplicate, tss.TPM2B_ENCRYPTED_SECRET(), none)
        parsed = public.parse(bytes(area.marshal()))
        return Wrapped(parsed, OWNER, empty_auth=True, private=bytes(private.marshal())).pem()


class SlowRelay:
    """Between a TPM and its users: each command takes ``delay`` seconds longer, one after the other as in a TPM.

    ``commands`` counts them by command code, when they arrive; ``delay`` may be changed at any time.
    """

    def __init__(self, tpm: Swtpm, delay: float = 0.0) -> None:
        self.delay = delay
        self.commands: Counter[int] = Counter()
        self._tpm = tpm
        self._folder = Path(tempfile.mkdtemp(prefix="relay-", dir="/tmp"))
        self._ended = threading.Event()
        self._one = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._guard = threading.Lock()

    @property
    def tcti(self) -> str:
        """How tpm2-tss reaches the TPM through it."""
        return f"swtpm:path={self._folder}/s"

    def __enter__(self) -> Self:
        self._listen("s", self._serve_commands)
        self._listen("s.ctrl", self._serve_control)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with self._guard:
            left, self._sockets = self._sockets, set()
        for sock in left:
            _end(sock)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _listen(self, name: str, serve: Serve) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{self._folder}/{name}")
        listener.listen(_MAX_CONNECTIONS)
        self._keep(listener)
        upstream = str(self._tpm.socket.with_name(name))
        room = threading.Semaphore(_MAX_CONNECTIONS)
        _thread(self._accept, listener, upstream, serve, room)

    def _accept(self, listener: socket.socket, upstream: str, serve: Serve, room: threading.Semaphore) -> None:
        with contextlib.suppress(OSError):  # `_end` ends the loop
            while not self._ended.is_set():
                room.acquire()
                _thread(self._connected, listener.accept()[0], upstream, serve, room)

    def _connected(self, user: socket.socket, upstream: str, serve: Serve, room: threading.Semaphore) -> None:
        tpm = socket.socket(socket.AF_UNIX)
        try:
            self._keep(user)
            self._keep(tpm)
            with contextlib.suppress(OSError, EOFError):  # either side went away; the other is told by the close
                tpm.connect(upstream)
                serve(user, tpm)
        finally:
            with self._guard:
                self._sockets -= {user, tpm}
            _end(user)
            _end(tpm)
            room.release()

    def _serve_commands(self, user: socket.socket, tpm: socket.socket) -> None:
        while True:
            command = _message(user)
            with self._one:
                self.commands[int.from_bytes(command[6:_HEADER])] += 1
                if self._ended.wait(self.delay):
                    return
                tpm.sendall(command)
                answer = _message(tpm)
            user.sendall(answer)

    def _serve_control(self, user: socket.socket, tpm: socket.socket) -> None:
        _thread(_pump, tpm, user)
        _pump(user, tpm)

    def _keep(self, sock: socket.socket) -> None:
        with self._guard:
            if self._ended.is_set():
                raise ConnectionAbortedError
            self._sockets.add(sock)


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def _message(sock: socket.socket) -> bytes:
    """A whole command or answer; its size stands in its third to sixth byte. Raises EOFError."""
    head = _exactly(sock, _HEADER)
    size = int.from_bytes(head[2:6])
    assert _HEADER <= size <= _MAX_MESSAGE
    return head + _exactly(sock, size - _HEADER)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_MAX_MESSAGE):
            target.sendall(data)
    _end(target)


def _end(sock: socket.socket) -> None:
    """Wakes whoever reads or accepts, and closes."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def _thread(target: Callable[..., None], *args: object) -> None:
    threading.Thread(target=target, args=args, daemon=True).start()
