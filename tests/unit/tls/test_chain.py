"""The chains of a connection, presented and verified, on this Python and by the other one's way."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.tls import chain
from sidecar.tls.chain import presented_chain, verified_chain
from sidecar.tls.engine import TlsEngine
from tests.support.ca import Ca, der
from tests.support.tls import CA, NOW, PLANNER, TOOLS, Ours, connected, converse, planner_context, tools_context

if TYPE_CHECKING:
    from collections.abc import Callable


def test_both_ends_see_what_the_other_presented_leaf_first() -> None:
    client, server = connected()
    assert presented_chain(client.engine._object) == TOOLS.der
    assert presented_chain(server.engine._object) == PLANNER.der


def test_a_resumed_server_session_has_no_chain() -> None:
    client_context, server_context = planner_context(), tools_context()
    first, _ = connected(client_context, server_context)
    server = Ours(TlsEngine(server_context))
    converse(Ours(TlsEngine(client_context, session=first.engine.session())), server)
    assert server.engine.resumed
    assert presented_chain(server.engine._object) == []


def test_the_verified_chain_has_the_root_and_nothing_that_was_sent_beside_it() -> None:
    spare = Ca("other.org", now=NOW).certificate
    client, _ = connected(server=tools_context(replace(TOOLS, chain=(*TOOLS.chain, spare))))
    assert presented_chain(client.engine._object) == [*TOOLS.der, der(spare)]
    assert verified_chain(client.engine._object) == [*TOOLS.der, der(CA.certificate)]


class Certificate:
    def public_bytes(self, encoding: int) -> bytes:
        assert encoding == 2
        return b"der"


each = pytest.mark.parametrize(
    ("chain_of", "method"), [(presented_chain, "get_unverified_chain"), (verified_chain, "get_verified_chain")]
)


@each
@pytest.mark.parametrize("given", [[Certificate()], None])
def test_before_3_13_the_objects_below_are_asked(
    monkeypatch: pytest.MonkeyPatch,
    chain_of: Callable[[Any], list[bytes]],
    method: str,
    given: list[Certificate] | None,
) -> None:
    monkeypatch.setattr(chain, "sys", SimpleNamespace(version_info=(3, 11)))
    connection = SimpleNamespace(_sslobj=SimpleNamespace(**{method: lambda: given}))
    assert chain_of(connection) == [b"der"] * len(given or ())


@each
def test_from_3_13_on_the_public_method_is_asked(
    monkeypatch: pytest.MonkeyPatch, chain_of: Callable[[Any], list[bytes]], method: str
) -> None:
    monkeypatch.setattr(chain, "sys", SimpleNamespace(version_info=(3, 13)))
    assert chain_of(SimpleNamespace(**{method: lambda: [b"der"]})) == [b"der"]


def test_the_number_for_der_is_pythons() -> None:
    import _ssl

    assert _ssl.ENCODING_DER == chain._ENCODING_DER
