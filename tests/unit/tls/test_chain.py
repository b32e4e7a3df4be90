"""The presented chain, on this Python and by the other one's way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from sidecar.tls import chain
from sidecar.tls.chain import presented_chain
from sidecar.tls.engine import TlsEngine
from tests.support.tls import PLANNER, TOOLS, Ours, connected, converse, planner_context, tools_context

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


class Certificate:
    def public_bytes(self, encoding: int) -> bytes:
        assert encoding == 2
        return b"der"


@pytest.mark.parametrize("give", [lambda: [Certificate()], lambda: None])
def test_before_3_13_the_objects_below_are_asked(
    monkeypatch: pytest.MonkeyPatch, give: Callable[[], list[Certificate] | None]
) -> None:
    monkeypatch.setattr(chain, "sys", SimpleNamespace(version_info=(3, 11)))
    connection = SimpleNamespace(_sslobj=SimpleNamespace(get_unverified_chain=give))
    assert presented_chain(connection) == [b"der"] * len(give() or ())  # type: ignore[arg-type]  # as much as it looks at


def test_from_3_13_on_the_public_method_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "sys", SimpleNamespace(version_info=(3, 13)))
    connection = SimpleNamespace(get_unverified_chain=lambda: [b"der"])
    assert presented_chain(connection) == [b"der"]  # type: ignore[arg-type]  # as much as it looks at


def test_the_number_for_der_is_pythons() -> None:
    import _ssl

    assert _ssl.ENCODING_DER == chain._ENCODING_DER
