"""What our contexts are, and what they refuse to be made of."""

from __future__ import annotations

import dataclasses
import errno
import ssl
from typing import TYPE_CHECKING, NoReturn

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from sidecar.errors import Fault, LocalError
from sidecar.identity.peer import Role
from sidecar.identity.refusal import Refusal
from sidecar.identity.spiffe import TrustDomain
from sidecar.keys import software
from sidecar.keys.software import SoftwareKey
from sidecar.tls import contexts
from sidecar.tls.contexts import ContextCode, ContextError, Credentials, client_context, server_context
from sidecar.tls.engine import TlsEngine
from sidecar.tls.failure import TlsCode, TlsError
from sidecar.tls.memory import PeerMemory
from tests.support.ca import Ca, Identity
from tests.support.tls import (
    CA,
    INTERMEDIATE,
    NOW,
    PLANNER,
    TOOLS,
    Ours,
    anybody,
    connected,
    converse,
    credentials,
    planner_context,
    tools_context,
)

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.tls.contexts import TlsContext

OTHER = Ca("other.example", now=NOW)

both_roles = pytest.mark.parametrize("make", [tools_context, planner_context])


def code_of(caught: pytest.ExceptionInfo[ContextError]) -> str:
    assert caught.value.fault is Fault.CONFIGURATION
    return str(caught.value.code)


@pytest.mark.threat(59)
@both_roles
def test_threat_59_nothing_but_tls_1_3_with_a_certificate_and_no_compression(make: type[TlsContext]) -> None:
    context = make().sslcontext
    assert context.minimum_version == context.maximum_version == ssl.TLSVersion.TLSv1_3
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.options & ssl.OP_NO_COMPRESSION
    assert not context.check_hostname
    assert context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN
    assert not context.options & getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)


def test_the_role_is_our_own() -> None:
    assert tools_context().role is Role.SERVER
    assert planner_context().role is Role.CLIENT


@both_roles
def test_the_system_store_is_never_looked_at(make: type[TlsContext], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *_: pytest.fail("the system's store"))  # noqa: TID251
    monkeypatch.setattr(ssl.SSLContext, "set_default_verify_paths", lambda *_: pytest.fail("the same"))  # noqa: TID251
    trusted = make().sslcontext.get_ca_certs(binary_form=True)
    assert trusted == CA.bundle.der()


def test_a_server_trusts_the_union_and_a_client_one_domain() -> None:
    bundles = CA.bundles | OTHER.bundles
    assert len(tools_context(bundles=bundles).sslcontext.get_ca_certs()) == 2
    assert len(planner_context(bundles=bundles).sslcontext.get_ca_certs()) == 1


@pytest.mark.threat(1)
def test_threat_1_without_an_authority_there_is_no_context() -> None:
    with pytest.raises(ContextError) as caught:
        server_context(credentials(TOOLS), {})
    assert code_of(caught) == ContextCode.NO_AUTHORITY
    with pytest.raises(ContextError) as caught:
        client_context(credentials(PLANNER), CA.bundles, TrustDomain.parse("other.example"), anybody)
    assert code_of(caught) == ContextCode.NO_AUTHORITY


def test_an_intermediate_in_a_bundle_is_an_anchor() -> None:
    client, server = connected(
        planner_context(bundles=INTERMEDIATE.bundles), tools_context(bundles=INTERMEDIATE.bundles)
    )
    assert client.open
    assert server.open


def test_later_changes_of_the_bundles_mapping_do_not_reach_the_context() -> None:
    bundles = dict(CA.bundles)
    context = tools_context(bundles=bundles)
    bundles.clear()
    assert connected(server=context)[1].open
    assert connected(server=context.successor())[1].open


def unchecked(pem: bytes) -> SoftwareKey:
    return SoftwareKey(TOOLS.key.public_key(), pem)


@pytest.mark.parametrize(
    "bad",
    [
        Credentials(TOOLS.chain_pem, software.load(PLANNER.key_pem)),
        Credentials(b"", software.load(TOOLS.key_pem)),
        Credentials(TOOLS.chain_pem, unchecked(b"garbage")),
        Credentials(
            TOOLS.chain_pem,
            unchecked(TOOLS.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))),
        ),
    ],
    ids=["key-of-another", "no-certificate", "garbage-key", "encrypted-key"],
)
def test_unusable_credentials_are_refused_without_a_question(
    bad: Credentials, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ContextError) as caught:
        server_context(bad, CA.bundles)
    assert code_of(caught) == ContextCode.CREDENTIALS
    assert capfd.readouterr() == ("", "")


def test_authorities_that_openssl_does_not_take_are_refused() -> None:
    class Garbage:
        def der(self) -> list[bytes]:
            return [b"garbage"]

    with pytest.raises(ContextError) as caught:
        server_context(credentials(TOOLS), {CA.domain: Garbage()})  # type: ignore[dict-item]  # no real bundle holds that
    assert code_of(caught) == ContextCode.AUTHORITIES


def test_a_machine_without_a_place_for_the_credentials_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_content: bytes) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(contexts, "path_holding", full)
    with pytest.raises(LocalError) as caught:
        tools_context()
    assert caught.value.code == ContextCode.HANDOVER
    assert "Too many open files" in str(caught.value)


def test_credentials_do_not_show_themselves() -> None:
    shown = repr(credentials(TOOLS)) + str(credentials(TOOLS)) + repr(dataclasses.replace(credentials(TOOLS)))
    assert "PRIVATE" not in shown
    assert "BEGIN" not in shown


def test_the_key_log_of_the_environment_is_not_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    client, server = connected()
    assert client.open
    assert server.open
    assert not log.exists()


@pytest.mark.parametrize(
    ("offered", "accepted", "chosen"),
    [
        (("http/1.1",), ("http/1.1",), "http/1.1"),
        (("h2", "http/1.1"), ("http/1.1",), "http/1.1"),
        (("h2",), ("http/1.1",), None),
        ((), ("http/1.1",), None),
        (("http/1.1",), (), None),
        ((), (), None),
    ],
)
def test_alpn_is_what_both_have_or_none(
    offered: tuple[str, ...], accepted: tuple[str, ...], chosen: str | None
) -> None:
    client, server = connected(planner_context(alpn=offered), tools_context(alpn=accepted))
    assert client.open
    assert server.open
    assert client.engine.alpn == server.engine.alpn == chosen


def test_the_same_chain_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counting(chain: list[bytes], *rest: object, **named: object) -> object:
        calls.append(chain)
        return verify(chain, *rest, **named)

    verify = contexts.verify
    monkeypatch.setattr(contexts, "verify", counting)
    server, client = tools_context(), planner_context()
    peers = [connected(client, server)[1].engine.peer for _ in range(3)]
    assert peers[0] == peers[1] == peers[2]
    assert calls == [TOOLS.der, PLANNER.der]  # the client decides first


@pytest.mark.threat(12)
def test_threat_12_a_chain_that_has_expired_meanwhile_is_verified_anew() -> None:
    server, client = tools_context(), planner_context()
    _, before = connected(client, server)
    assert before.engine.peer is not None
    late = Ours(TlsEngine(server), now=before.engine.peer.not_after + 1)
    converse(Ours(TlsEngine(client)), late)
    assert late.code == Refusal.EXPIRED


@pytest.mark.threat(10)
def test_threat_10_a_clock_before_the_certificate_refuses() -> None:
    early = Ours(TlsEngine(tools_context()), now=NOW - 10**6)
    converse(Ours(TlsEngine(planner_context())), early)
    assert early.code in {Refusal.NOT_YET_VALID, Refusal.INTERMEDIATE_NOT_YET_VALID, Refusal.AUTHORITY_NOT_YET_VALID}


class Connection:
    """As much of an SSLObject as ``prove`` looks at."""

    session_reused = False

    def __init__(self, leaf: bytes | None, chain: list[bytes]) -> None:
        self.leaf, self.chain = leaf, chain

    def getpeercert(self, *, binary_form: bool) -> bytes | None:
        assert binary_form
        return self.leaf


@pytest.mark.parametrize(
    ("leaf", "chain", "code"),
    [
        (None, [], TlsCode.NO_CERTIFICATE),
        (PLANNER.der[0], [], TlsCode.BAD_CERTIFICATE),
        (PLANNER.der[0], [*TOOLS.der, PLANNER.der[0]], TlsCode.BAD_CERTIFICATE),
    ],
    ids=["no-leaf", "no-chain", "chain-of-another"],
)
def test_a_chain_that_is_not_the_proven_leafs_is_refused(
    monkeypatch: pytest.MonkeyPatch, leaf: bytes | None, chain: list[bytes], code: TlsCode
) -> None:
    monkeypatch.setattr(contexts, "presented_chain", lambda connection: connection.chain)
    with pytest.raises(TlsError) as caught:
        tools_context().prove(Connection(leaf, chain), NOW)  # type: ignore[arg-type]  # see Connection
    assert caught.value.code is code


@pytest.mark.parametrize("position", [0, 1])
def test_somebody_elses_leaf_in_the_chain_is_not_who_calls(position: int) -> None:
    """Certificates are public: whoever holds a good one can send another along, and be refused or be himself."""
    chain = list(PLANNER.chain)
    chain.insert(position + 1, TOOLS.leaf)
    client, server = connected(planner_context(Identity(tuple(chain), PLANNER.key)))
    assert client.engine.peer is not None
    assert server.engine.peer is None or server.engine.peer.id == PLANNER.id


def test_a_full_context_has_a_successor_that_knows_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "PeerMemory", lambda: PeerMemory(limit=1))
    server, client = tools_context(), planner_context()
    assert not server.full
    first, _ = connected(client, server)
    assert server.full
    successor = server.successor()
    assert not successor.full
    assert successor.sslcontext is not server.sslcontext
    # The old ticket means nothing there, and no harm is done by it.
    again, served = connected(client, successor, session=first.engine.session())
    assert again.open
    assert served.open
    assert (again.engine.resumed, served.engine.resumed) == (False, False)
