"""Ensures that tokens are obtained, bound and signed with a key that nobody can copy: in a TPM, in an HSM, behind a service.

The issuer is asked by a handshake, or by an assertion, that the device signs; the tools' side sees that the token is bound
to the certificate of that very key.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import COMMAND, PLANNER
from tests.support.token_pair import CLIENT, Agent, TokenPair, claims

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.processes import Site
    from tests.support.softhsm import SoftHsm
    from tests.support.swtpm import Swtpm

needs_tpm = pytest.mark.needs("swtpm", "tpm2-pytss")
needs_hsm = pytest.mark.needs("softhsm", "python-pkcs11")
needs_issuer = pytest.mark.needs("oauth-server")


@pytest.fixture
def tpm() -> Iterator[Swtpm]:
    from tests.support.swtpm import Swtpm

    with Swtpm() as made:
        yield made


@pytest.fixture
def hsm() -> Iterator[SoftHsm]:
    from tests.support.softhsm import SoftHsm

    with SoftHsm() as made:
        yield made


def check(pair: TokenPair, *, protection: str, binding: str) -> None:
    """A request passes with a token that is bound to the planner's certificate, and operators see by what."""
    pair.source["helper"] = True
    pair.start()
    assert pair.ask("/x").status == 200
    planner, tools = pair.lines("/x")
    assert planner["key.protection"] == protection
    assert tools["decision"] == "allow"
    assert pair.held()["binding"] == binding
    assert claims(pair.token())["cnf"] == {"x5t#S256": pair.thumbprint()}
    assert pair.upstream.requests[0].fields("Authorization") == []
    assert pair.planner.stop() == 0


@needs_issuer
@needs_tpm
@pytest.mark.parametrize("client_auth", ["tls_client_auth", "private_key_jwt"])
def test_an_issuer_is_asked_with_a_key_in_a_tpm(site: Site, tpm: Swtpm, client_auth: str) -> None:
    from tests.support.keyed import key_in_tpm

    pair = TokenPair(site)
    key_in_tpm(site, pair.planner, tpm)
    pair.with_issuer(client_auth)
    check(pair, protection="tpm", binding="hardware")
    tokens = pair.issuer.state()["tokens"]
    assert {(token["method"], token["x5t"]) for token in tokens} == {(client_auth, pair.thumbprint())}
    assert tpm.transient_handles() == tpm.loaded_sessions() == []


@needs_issuer
@needs_hsm
@pytest.mark.parametrize("client_auth", ["tls_client_auth", "private_key_jwt"])
def test_an_issuer_is_asked_with_a_key_in_an_hsm(site: Site, hsm: SoftHsm, client_auth: str) -> None:
    from tests.support.keyed import key_in_token

    pair = TokenPair(site)
    key_in_token(site, pair.planner, hsm)
    pair.with_issuer(client_auth)
    check(pair, protection="hsm", binding="hardware")
    tokens = pair.issuer.state()["tokens"]
    assert {(token["method"], token["x5t"]) for token in tokens} == {(client_auth, pair.thumbprint())}


@needs_tpm
def test_a_tpm_signs_the_tokens_themselves(site: Site, tpm: Swtpm) -> None:
    from tests.support.keyed import key_in_tpm

    pair = TokenPair(site)
    key_in_tpm(site, pair.planner, tpm)
    check(pair, protection="tpm", binding="hardware")


@needs_issuer
@needs_tpm
@pytest.mark.threat(24)
def test_threat_24_a_new_certificate_for_the_key_in_a_tpm(site: Site, tpm: Swtpm) -> None:
    """No request fails, none waits for the issuer, and the old token ends."""
    from tests.support.keyed import certify, key_in_tpm

    pair = TokenPair(site)
    key_in_tpm(site, pair.planner, tpm)
    pair.with_issuer("tls_client_auth").start()
    agents = [Agent(pair, number) for number in range(3)]
    expected = []
    for number in range(3):
        if number:
            certify(site, pair.planner, pair.certificate().public_key())  # type: ignore[arg-type]  # an EC key
            pair.planner.reload()
        expected.append(pair.thumbprint())
        eventually(lambda: [token["x5t"] for token in pair.issuer.state()["tokens"]] == expected, "its token")
        for agent in agents:
            agent.await_more(3)
    assert {answer for agent in agents for answer in agent.stop()} == {200}
    assert pair.tools.metric("tokens_refused_total") == 0
    old = [token["jti"] for token in pair.issuer.state()["tokens"][:-1]]
    eventually(lambda: pair.issuer.revoked == old, "the old tokens to be revoked")
    assert {held["binding"] for held in pair.status()["tokens"]} - {None} == {"hardware"}


# -- behind a signer service --------------------------------------------------------------------------------------------


class Service:
    """One `sidecar signer` with a key in a file, which the planner's sidecar has not."""

    def __init__(self, pair: TokenPair) -> None:
        from tests.support.keyed import certify

        site = pair.site
        key = site.identity("signer").key.public_key()
        certify(site, pair.planner, key)  # type: ignore[arg-type]  # the site makes EC keys
        site.path("planner.key").unlink()
        pair.planner.config["identity"]["key"] = f"signer:unix:{site.path('s.sock')}"
        self.site = site

    def start(self, *options: str) -> None:
        command = (*COMMAND, "signer", "--listen", f"unix:{self.site.path('s.sock')}", "--key", "signer.key")
        out, err = self.site.path("signer.out"), self.site.path("signer.err")
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = self.site.process(*command, *options, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        eventually(lambda: process.poll() is not None or b"is ready" in err.read_bytes(), "the signer service")
        assert process.poll() is None, err.read_text()

    def signed(self, purpose: str | None) -> list[str]:
        """The results of what it was asked to sign for that purpose, by its lines; None: for one that it does not know."""
        lines = [json.loads(line) for line in self.site.path("signer.out").read_text().splitlines()]
        return [line["result"] for line in lines if line["event"] == "sign" and line["purpose"] == purpose]


@needs_issuer
def test_a_signer_service_signs_our_assertions(site: Site) -> None:
    pair = TokenPair(site)
    service = Service(pair)
    pair.with_issuer("private_key_jwt")
    service.start("--client-assertion", pair.issuer.issuer, CLIENT)
    check(pair, protection="remote", binding="bound")
    assert {token["method"] for token in pair.issuer.state()["tokens"]} == {"private_key_jwt"}
    # The one in use, the one that was asked for by hand, and the end of the first.
    assert service.signed("client-assertion") == ["ok"] * 3
    assert service.signed("self-signed-token") == service.signed(None) == []


def test_a_signer_service_signs_our_tokens(site: Site) -> None:
    pair = TokenPair(site)
    service = Service(pair)
    service.start("--spiffe-id", PLANNER)
    check(pair, protection="remote", binding="bound")
    assert service.signed("self-signed-token") == ["ok"] * 2
    assert service.signed("client-assertion") == service.signed(None) == []


def no_issuer(pair: TokenPair) -> tuple[str, ...]:
    return ("--client-assertion", "https://issuer.example", CLIENT)


def another_name(pair: TokenPair) -> tuple[str, ...]:
    return ("--spiffe-id", f"{PLANNER}/another")


@pytest.mark.parametrize("mandate", [no_issuer, another_name, lambda _: ()])
@pytest.mark.threat(21)
def test_threat_21_a_signer_service_signs_for_its_mandate_alone(
    site: Site, mandate: Callable[[TokenPair], tuple[str, ...]]
) -> None:
    """No request goes out without its token, and the log says that it was our own key that did not sign."""
    pair = TokenPair(site)
    service = Service(pair)
    service.start(*mandate(pair))
    pair.start()
    answer = pair.ask("/x")
    assert (answer.status, answer.json["error"]) == (503, "token_unavailable")
    (planner,) = pair.planner.await_log(event="request", http_path="/x")
    assert planner["error"] == "token_signing_failed"
    assert pair.refreshed("token_signing_failed") == 1
    assert pair.upstream.requests == []
    eventually(lambda: service.signed(None), "the refusal to be written down")
    assert service.signed(None) != ["ok"]
