from __future__ import annotations

import _ssl
import ctypes
from typing import TYPE_CHECKING

import pytest

from sidecar.keys import error_queue
from sidecar.keys.error_queue import untouched

if TYPE_CHECKING:
    from sidecar.keys.signer import Hash

LIBRARY = ctypes.CDLL(_ssl.__file__)
LIBRARY.ERR_peek_last_error.restype = ctypes.c_ulong


@pytest.fixture(autouse=True)
def _empty_queue() -> None:
    LIBRARY.ERR_clear_error()


def leave(reason: int) -> None:
    LIBRARY.ERR_new()
    LIBRARY.ERR_set_error(ctypes.c_int(38), ctypes.c_int(reason), None)


def last() -> int:
    return int(LIBRARY.ERR_peek_last_error()) & 0x7FFFFF


def test_what_a_block_leaves_is_gone() -> None:
    with untouched():
        leave(101)
        leave(102)
        assert last() == 102
    assert last() == 0


def test_what_was_there_before_stays() -> None:
    leave(101)
    with untouched():
        leave(102)
        with untouched():
            leave(103)
        assert last() == 102
    assert last() == 101


def test_an_exception_passes() -> None:
    with pytest.raises(ZeroDivisionError), untouched():
        leave(1 // 0 or 101)
    assert last() == 0


def test_an_openssl_that_is_built_in_has_a_queue_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_queue, "_library", lambda: None)
    with untouched():
        leave(101)
    assert last() == 101


def test_what_a_signer_leaves_fails_no_handshake() -> None:
    """OpenSSL takes any entry for the outcome of its own step (SSL_get_error(3))."""
    from sidecar.keys.openssl import ExternalKey
    from sidecar.tls.contexts import Credentials
    from tests.support.devices import HeldSigner
    from tests.support.tls import PLANNER, TOOLS, connected, planner_context, tools_context

    class Untidy(HeldSigner):
        def sign(self, message: bytes, hash_: Hash) -> bytes:
            signature = super().sign(message, hash_)
            leave(101)
            return signature

    signers = {identity: Untidy(identity) for identity in (PLANNER, TOOLS)}
    for signer in signers.values():
        signer.go.set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "tests.support.tls.credentials",
            lambda identity: Credentials(identity.chain_pem, ExternalKey(signers[identity])),
        )
        client, server = connected(planner_context(), tools_context())
    assert client.engine.peer is not None
    assert server.engine.peer is not None
    assert [signer.signatures for signer in signers.values()] == [1, 1]
    assert last() == 0
