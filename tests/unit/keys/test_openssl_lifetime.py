"""How long a key that OpenSSL was lent lives: as its context does, no shorter and no longer."""

from __future__ import annotations

import gc
import ssl
import weakref
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sidecar.keys import openssl
from sidecar.keys.openssl import ExternalKey, live_keys
from sidecar.tls.contexts import ContextCode, ContextError
from sidecar.tls.engine import TlsEngine
from sidecar.tls.handover import path_holding
from tests.support.lent import TOOLS_384, TellingSigner, client_of, leaving_nothing, lent, queued_error, server_of, talk
from tests.support.tls import PLANNER, TOOLS, Ours, SSLContext, Stdlib, connected, converse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with leaving_nothing():
        yield


def test_it_is_held_for_as_long_as_its_context() -> None:
    before = live_keys()
    pair = lent()
    assert live_keys() == before + 2
    del pair
    gc.collect()
    assert live_keys() == before


def test_a_successor_has_its_own() -> None:
    before = live_keys()
    context = lent().server
    gc.collect()
    successor = context.successor()
    assert live_keys() == before + 2
    del context
    gc.collect()
    assert live_keys() == before + 1
    talk(*connected(client_of(PLANNER), successor))


def test_the_public_half_is_freed_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    library = openssl._installed[0][0] if openssl._installed else None
    openssl.install()
    library = library or openssl._installed[0][0]
    freed: list[int] = []
    free = library.free_key
    monkeypatch.setattr(library, "free_key", lambda key: (freed.append(key), free(key)))
    context = server_of(TOOLS, ExternalKey(TellingSigner(TOOLS)))
    public = openssl._records[max(openssl._records)].public
    assert freed == []
    del context
    gc.collect()
    assert freed == [public]


def test_nothing_is_freed_when_the_interpreter_exits() -> None:
    """OpenSSL may still be at work with it then, in a thread that is never joined."""
    keeper = lent()
    lifetimes = [life for life in weakref.finalize._registry if life.peek()[1] is openssl._forget]  # type: ignore[attr-defined]
    assert len(lifetimes) >= len(keeper[:2])
    assert not any(life.atexit for life in lifetimes)


def test_a_connection_outlives_the_context_that_it_came_from() -> None:
    before = live_keys()
    pair = lent()
    client, server = Stdlib(pair.client.sslcontext, server=False), Stdlib(pair.server.sslcontext, server=True)
    converse(client, server)
    assert client.done
    del pair
    gc.collect()
    client.write(b"still")
    server.write(b"there")
    converse(client, server)
    assert (server.plain, client.plain) == (b"still", b"there")
    assert live_keys() == before + 2  # by the connections
    del client, server
    gc.collect()
    assert live_keys() == before


def test_a_handshake_that_began_before_is_finished_after_the_context_is_gone() -> None:
    pair = lent()
    client, server = Stdlib(pair.client.sslcontext, server=False), Stdlib(pair.server.sslcontext, server=True)
    planner, tools = pair.planner, pair.tools
    client.turn()
    del pair
    gc.collect()
    converse(client, server)
    assert (client.done, server.done) == (True, True)
    assert (len(planner.asked), len(tools.asked)) == (1, 1)


def test_a_session_outlives_the_context_that_it_came_from() -> None:
    before = live_keys()
    pair = lent()
    client, server = connected(pair.client, pair.server)
    session = client.engine.session()
    assert session is not None
    client_context = pair.client.sslcontext
    server_context = pair.server
    del pair, client, server
    gc.collect()
    again = Ours(TlsEngine(server_context))
    bio = ssl.MemoryBIO(), ssl.MemoryBIO()
    raw = client_context.wrap_bio(*bio, session=session)
    del client_context
    gc.collect()
    with pytest.raises(ssl.SSLWantReadError):
        raw.do_handshake()
    again.receive(bio[1].read())
    again.turn()
    bio[0].write(again.to_send())
    raw.do_handshake()
    assert raw.session_reused
    del raw, again, server_context
    gc.collect()
    assert live_keys() == before + 1  # by the session alone
    del session
    gc.collect()
    assert live_keys() == before


def test_a_certificate_for_another_key_is_refused_and_the_key_let_go_of() -> None:
    before = live_keys()
    with pytest.raises(ContextError) as caught:
        server_of(TOOLS, ExternalKey(TellingSigner(PLANNER)))
    assert caught.value.code is ContextCode.CREDENTIALS
    del caught
    gc.collect()
    assert live_keys() == before
    assert queued_error() == 0


def test_a_certificate_on_another_curve_is_refused() -> None:
    with pytest.raises(ContextError) as caught:
        server_of(TOOLS_384, ExternalKey(TellingSigner(TOOLS)))
    assert caught.value.code is ContextCode.CREDENTIALS


@pytest.mark.parametrize(
    "damage",
    [
        lambda pem: pem.replace(b"AAAAA", b"/////"),
        lambda pem: pem.replace(b"AAAAA", b"*****"),
        lambda pem: pem[:35],
        lambda pem: pem[:28],
        lambda pem: pem[:20],
        lambda pem: pem.replace(b"-----END", b"-----AND"),
    ],
    ids=["unknown-number", "no-base64", "cut-number", "no-number", "cut-label", "no-end"],
)
def test_a_damaged_pem_of_ours(damage: Callable[[bytes], bytes]) -> None:
    """It holds a number alone; whatever is made of it, a wrong one is refused, or the right one is meant."""
    context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pem = ExternalKey(TellingSigner(TOOLS)).lend(context)
    with path_holding(TOOLS.chain_pem) as chain, path_holding(damage(pem)) as key:
        if b"-----AND" in damage(pem):
            context.load_cert_chain(chain, key)  # the number is all there is
        else:
            with pytest.raises(ssl.SSLError):
                context.load_cert_chain(chain, key)
    ExternalKey.take_failure()  # which knows the frames that it came through, and so the context


def test_the_pem_of_a_key_that_is_gone_is_refused() -> None:
    context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pem = ExternalKey(TellingSigner(TOOLS)).lend(context)
    del context
    gc.collect()
    other = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with path_holding(TOOLS.chain_pem) as chain, path_holding(pem) as key, pytest.raises(ssl.SSLError):
        other.load_cert_chain(chain, key)
    assert ExternalKey.take_failure() is None  # found at once, not stumbled over later


def test_the_pem_holds_nothing_of_the_key() -> None:
    context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pem = ExternalKey(TellingSigner(TOOLS)).lend(context)
    assert len(pem) < 80
    with pytest.raises(ValueError):
        load_pem_private_key(pem, password=None)
