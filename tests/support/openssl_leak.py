"""Does one thing with lent keys again and again, and says what it left behind: ``python -m tests.support.openssl_leak WHAT N``.

Prints JSON: what grew between the end of the warm-up and the end, as the system (``rss``, bytes), the C library (``heap``,
bytes; absent where it does not tell) and Python (``blocks``) count it, and how many ``keys`` and ``signatures`` there are now
more than at the very start.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import resource
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.openssl import ExternalKey, ThroughOpenSsl, live_keys
from sidecar.keys.selftest import self_test
from tests.support.lent import Lent, client_of, failing, lent, server_of, under_way
from tests.support.tls import PLANNER, TOOLS, connected, converse

if TYPE_CHECKING:
    from collections.abc import Callable


class _Mallinfo2(ctypes.Structure):
    """mallinfo2(3); ``uordblks`` is what is allocated in all arenas."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _heap() -> int | None:
    ask: Any = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if ask is None:
        return None
    ask.restype = _Mallinfo2
    told = ask()
    return int(told.uordblks + told.hblkhd)


def _rss() -> int:
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # what is free but kept for later is no leak
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def _forgetful() -> Lent:
    pair = lent()
    pair.planner.asked = deque(maxlen=1)
    pair.tools.asked = deque(maxlen=1)
    return pair


def handshakes() -> Callable[[], None]:
    """Full handshakes with the same two contexts, and data."""
    pair = _forgetful()

    def once() -> None:
        client, server = connected(pair.client, pair.server)
        client.write(b"ping")
        server.write(b"pong")
        converse(client, server)
        assert (client.plain, server.plain) == (b"pong", b"ping")
        assert not client.engine.resumed

    return once


def resumptions() -> Callable[[], None]:
    """Handshakes that resume one session.

    It is read once: before 3.12.8 and 3.13.1 Python loses 6 kB whenever it gives a session out, whatever the key
    (CPython issue 116810).
    """
    pair = _forgetful()
    session = connected(pair.client, pair.server)[0].engine.session()

    def once() -> None:
        client, server = connected(pair.client, pair.server, session=session)
        assert client.engine.resumed
        assert server.open

    return once


def failures() -> Callable[[], None]:
    """Handshakes in which one end does not sign, in turn, or breaks off."""
    pair = _forgetful()
    ends = [pair.planner, pair.tools]

    def once() -> None:
        failed = ends.pop(0)
        ends.append(failed)
        failed.answer = failing(SignCode.TIMEOUT)
        client, server = connected(pair.client, pair.server)
        failed.answer = None
        assert SignCode.TIMEOUT in {client.code, server.code}

    return once


def rotations() -> Callable[[], None]:
    """Contexts that are made, used once, and dropped."""
    signers = _forgetful()[2:]
    keys = ExternalKey(signers[0]), ExternalKey(signers[1])

    def once() -> None:
        client, server = connected(client_of(PLANNER, keys[0]), server_of(TOOLS, keys[1]))
        assert client.open
        assert server.open

    return once


def self_tests() -> Callable[[], None]:
    """What a start and a reload do first; every other one fails."""
    signer = _forgetful().tools

    def once() -> None:
        through = ThroughOpenSsl(ExternalKey(signer))
        self_test(through)
        signer.answer = failing(SignCode.TIMEOUT)
        with contextlib.suppress(SignError):
            self_test(through)
        signer.answer = None

    return once


KINDS = {kind.__name__: kind for kind in (handshakes, resumptions, failures, rotations, self_tests)}


def main(what: str, count: int) -> None:
    keys, signatures = live_keys(), under_way()
    once = KINDS[what]()
    for _ in range(max(count // 5, 100)):
        once()
    gc.collect()
    rss, heap, blocks = _rss(), _heap(), sys.getallocatedblocks()
    began = time.perf_counter()
    for _ in range(count):
        once()
    seconds = time.perf_counter() - began
    gc.collect()
    grown = {"rss": _rss() - rss, "blocks": sys.getallocatedblocks() - blocks, "seconds": round(seconds, 2)}
    if heap is not None:
        grown["heap"] = (_heap() or 0) - heap
    del once
    gc.collect()
    print(json.dumps(grown | {"keys": live_keys() - keys, "signatures": under_way() - signatures}))  # noqa: T201 - a command


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
