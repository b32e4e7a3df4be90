"""Ends in the middle of something with lent keys: ``python -m tests.support.openssl_exit SCENARIO [ROUND]``.

Each scenario is a function; what its process is expected to return is in tests/unit/keys/test_openssl_processes.py. ``ROUND``
varies the moment.
"""

from __future__ import annotations

import _ssl
import atexit
import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sidecar.keys.errors import SignCode
from sidecar.tls.engine import TlsEngine
from tests.support.lent import Lent, failing, lent
from tests.support.tls import TOOLS, Ours, connected

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.keys.signer import Hash

#: What is alive when the interpreter ends.
ALIVE: Final[list[Any]] = []


def _open() -> Lent:
    pair = lent()
    ends = connected(pair.client, pair.server)
    assert ends[0].open
    assert ends[1].open
    ALIVE.extend([pair, *ends])
    return pair


def _half_open(pair: Lent) -> None:
    """A client that has sent its ClientHello, and a server that has seen half of it."""
    client, server = Ours(TlsEngine(pair.client)), Ours(TlsEngine(pair.server))
    client.turn()
    hello = client.to_send()
    server.receive(hello[: len(hello) // 2])
    server.turn()
    ALIVE.extend([client, server])


def _in_thread(work: Callable[[], object]) -> None:
    threading.Thread(target=work, daemon=True).start()


def _signing(wait: Callable[[], object]) -> Lent:
    """A daemon thread is inside of ``sign``, where it waits before it signs."""
    pair, inside = _open(), threading.Event()

    def answer(message: bytes, hash_: Hash) -> bytes:
        inside.set()
        wait()
        return pair.tools.right(message, hash_)

    pair.tools.answer = answer
    _in_thread(lambda: connected(pair.client, pair.server))
    assert inside.wait(20)
    return pair


def normal(_round: int) -> None:
    _open()


def half_open(_round: int) -> None:
    _half_open(_open())


def after_failures(_round: int) -> None:
    pair = _open()
    pair.tools.answer = failing(SignCode.TIMEOUT)
    ALIVE.extend(connected(pair.client, pair.server))
    pair.planner.answer, pair.tools.answer = pair.tools.answer, None
    ALIVE.extend(connected(pair.client, pair.server))


def in_cycles(_round: int) -> None:
    pair = _open()
    ALIVE.clear()
    loop: list[Any] = [pair, *connected(pair.client, pair.server)]
    loop.append(loop)


def waiting_for_ever(_round: int) -> None:
    """The signer waits in Python."""
    lock = threading.Lock()
    lock.acquire()
    _signing(lock.acquire)


def hung_for_ever(_round: int) -> None:
    """The signer hangs in C."""
    reading, writing = os.pipe()
    ALIVE.append(writing)
    _signing(lambda: os.read(reading, 1))


class _Last:
    """Lets a signer go when the interpreter is being taken apart, and looks until its thread is gone, or for half a second."""

    def __init__(self, writing: int) -> None:
        self.writing = writing
        # What a module's teardown has not taken away yet, whenever it comes here.
        self.write, self.tasks, self.clock, self.rest = os.write, os.listdir, time.monotonic, os.sched_yield

    def __del__(self) -> None:
        self.write(self.writing, b"x")
        until = self.clock() + 0.5
        while len(self.tasks("/proc/self/task")) > 1 and self.clock() < until:
            self.rest()


def returning_too_late(_round: int) -> None:
    """The signer returns while the interpreter is being taken apart."""
    assert Path("/proc/self/task").is_dir()
    reading, writing = os.pipe()
    ALIVE.append(_Last(writing))
    _signing(lambda: os.read(reading, 1))


def returning_at_exit(_round: int) -> None:
    """The signer returns, and handshakes go on, while the functions of `atexit` run."""
    reading, writing = os.pipe()
    pair = _signing(lambda: os.read(reading, 1))

    def last() -> None:
        os.write(writing, b"xx")
        client, server = connected(pair.client, pair.server)
        assert client.open
        assert server.open

    atexit.register(last)


def busy_threads(round_: int) -> None:
    """Threads shake hands without end; the main one leaves when a few are done."""
    pair, done = _open(), threading.Semaphore(0)

    def work() -> None:
        while True:
            connected(pair.client, pair.server)
            done.release()

    for _ in range(3):
        _in_thread(work)
    for _ in range(3 + round_ % 17):
        assert done.acquire(timeout=20)


def decoding(round_: int) -> None:
    """One thread reads a private key with the GIL let go of, the main one public keys without letting go of it.

    Each time it is the first of its kind, for which OpenSSL (since 3.2) makes a decoder, and copies it under a lock.
    """
    libcrypto, keeping = ctypes.CDLL(_ssl.__file__), ctypes.PyDLL(_ssl.__file__)
    libcrypto.BIO_new_mem_buf.restype = libcrypto.PEM_read_bio_PrivateKey_ex.restype = ctypes.c_void_p
    libcrypto.PEM_read_bio_PrivateKey_ex.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_char_p]
    keeping.d2i_PUBKEY.restype = ctypes.c_void_p
    keeping.d2i_PUBKEY.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_long]
    _open()
    sys.setswitchinterval(1e-6)
    pem, spki = TOOLS.key_pem, TOOLS.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    buffer, over = ctypes.create_string_buffer(spki, len(spki)), threading.Event()

    def read() -> None:
        for number in range(300):
            bio = ctypes.c_void_p(libcrypto.BIO_new_mem_buf(pem, len(pem)))
            properties = b"?round=%d.%d" % (round_, number)
            assert libcrypto.PEM_read_bio_PrivateKey_ex(bio, None, None, None, None, properties)
        over.set()

    _in_thread(read)
    while not over.is_set():
        assert keeping.d2i_PUBKEY(None, ctypes.byref(ctypes.c_void_p(ctypes.addressof(buffer))), len(spki))


def busy_rotation(round_: int) -> None:
    """Threads make contexts and drop them; the main one leaves when a few are done."""
    done = threading.Semaphore(0)

    def work() -> None:
        while True:
            lent()
            done.release()

    for _ in range(2):
        _in_thread(work)
    for _ in range(2 + round_ % 7):
        assert done.acquire(timeout=20)


def sys_exit(_round: int) -> None:
    _half_open(_signing(threading.Event().wait))
    sys.exit(3)


def exit_in_sign(_round: int) -> None:
    """`sys.exit` by the signer itself: its handshake fails, and the program goes on to its own end."""
    pair = _open()
    pair.tools.answer = lambda _message, _hash: sys.exit(4)
    _, server = connected(pair.client, pair.server)
    assert server.code == "signing_failed"
    sys.exit(3)


def exception(_round: int) -> None:
    _half_open(_signing(threading.Event().wait))
    raise RuntimeError("as the test says")


def terminated(_round: int) -> None:
    _half_open(_signing(threading.Event().wait))
    signal.raise_signal(signal.SIGTERM)


def terminated_in_sign(_round: int) -> None:
    pair = _open()
    pair.tools.answer = lambda _message, _hash: signal.raise_signal(signal.SIGTERM)
    connected(pair.client, pair.server)


def interrupted_in_sign(_round: int) -> None:
    """Ctrl-C while a key signs in the main thread: its handshake fails, and nothing else does."""
    pair = _open()
    pair.tools.answer = lambda _message, _hash: signal.raise_signal(signal.SIGINT)
    _, server = connected(pair.client, pair.server)
    assert server.code == "signing_failed"
    pair.tools.answer = None
    _, server = connected(pair.client, pair.server)
    assert server.open


def forked(_round: int) -> None:
    """A child that was forked while handshakes were under way: it goes on, and both end."""
    pair = _open()
    _half_open(pair)
    child = os.fork()
    client, server = connected(pair.client, pair.server)
    assert client.open
    assert server.open
    if child:
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0


SCENARIOS: Final = {
    scenario.__name__: scenario
    for scenario in (
        *(normal, half_open, after_failures, in_cycles, waiting_for_ever, hung_for_ever, returning_too_late),
        *(returning_at_exit, busy_threads, busy_rotation, decoding, sys_exit, exit_in_sign, exception, terminated),
        *(terminated_in_sign, interrupted_in_sign, forked),
    )
}


if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](int(sys.argv[2]) if len(sys.argv) > 2 else 0)
