"""Ensures that a renewed certificate costs no request, and that no token meets the connection of another certificate.

Agents ask without a pause on connections that stay open, while key and certificate of the planner's sidecar are replaced
again and again. Which token came along is in the tools' log, to which certificate it is bound is known by its issuer, and
which certificate the connection showed is what the agent behind is told.
"""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ca import DAY, Ca, keypair
from tests.support.eventually import eventually
from tests.support.oauth_clients import base64url, by_key
from tests.support.processes import Pending, now, replace_file
from tests.support.token_pair import CLIENT, SOURCE, Agent, TokenPair, claims

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.backend import Received
    from tests.support.processes import Site

RENEWALS = 5
AGENTS = 6


def shown(request: Received) -> str:
    """The certificate of the connection that a request came over, as ``cnf`` names it."""
    (said,) = request.fields("X-Forwarded-Client-Cert")
    digest = re.search(r"Hash=([0-9a-f]{64})", said)
    assert digest is not None
    return base64url(bytes.fromhex(digest[1]))


def certificates(pair: TokenPair) -> list[str]:
    """Those that were shown, in the order in which each came up."""
    return list(dict.fromkeys(shown(request) for request in pair.upstream.requests))


def by_signal(pair: TokenPair) -> None:
    pair.planner.signal(signal.SIGHUP)


def by_itself(_: TokenPair) -> None:
    """It looks for itself."""


def renew(pair: TokenPair, number: int, tell: Callable[[TokenPair], None]) -> None:
    """Returns when the new certificate is in force."""
    before = pair.planner.reloads("ok")
    pair.renew(f"renewed {number}")
    tell(pair)
    eventually(lambda: pair.planner.reloads("ok") > before, f"the renewal to be taken; {pair.planner.stderr}")


def check(pair: TokenPair, agents: list[Agent]) -> list[dict[str, Any]]:
    """Nothing failed for anybody; returns the lines of the tools' log."""
    answers = [answer for agent in agents for answer in agent.stop()]
    assert set(answers) == {200}
    answers += [200] * len(pair.upstream.of("/first"))  # of the test itself
    lines = pair.tools.await_log(len(answers), event="request")
    assert len(lines) == len(answers) == len(pair.upstream.requests), "none was sent twice"
    assert {(line["http.status"], line["decision"]) for line in lines} == {(200, "allow")}
    assert pair.planner.metric("requests_total", status_class="2xx") == len(answers)
    assert pair.planner.metric("requests_total") == len(answers)
    assert pair.tools.metric("tokens_refused_total") == pair.incidents == 0
    assert pair.planner.reloads("failed") == 0
    return lines


@pytest.mark.needs("oauth-server")
@pytest.mark.parametrize("tell", [by_signal, by_itself])
@pytest.mark.threat(22, 24)
def test_threat_22_no_request_fails_while_certificates_are_renewed(
    site: Site, tell: Callable[[TokenPair], None]
) -> None:
    pair = TokenPair(site).with_issuer("tls_client_auth").start()
    agents = [Agent(pair, number) for number in range(AGENTS)]
    expected = []
    for number in range(1 + RENEWALS):
        if number:
            renew(pair, number, tell)
        expected.append(pair.thumbprint())
        eventually(lambda: certificates(pair) == expected, "requests over connections with the new certificate")
        for agent in agents:
            agent.await_more(3)
    lines = check(pair, agents)
    tokens = pair.issuer.state()["tokens"]
    bound_to = {token["jti"]: token["x5t"] for token in tokens}
    over = {request.path: shown(request) for request in pair.upstream.requests}
    assert [line for line in lines if bound_to[line["token.id"]] != over[line["http.path"]]] == []
    assert [token["x5t"] for token in tokens] == expected, "one token for each certificate"
    old = [token["jti"] for token in tokens[:-1]]
    eventually(lambda: sorted(pair.issuer.revoked) == sorted(old), "the old tokens, and no other, to be revoked")
    assert pair.refreshed() == 1 + RENEWALS
    eventually(lambda: pair.tools.metric("connections", direction="inbound") <= AGENTS, "the old connections to end")


@pytest.mark.threat(22, 24)
def test_threat_22_self_signed_tokens_too(site: Site) -> None:
    pair = TokenPair(site)
    pair.rule["pass_token"] = True
    pair.start()
    agents = [Agent(pair, number) for number in range(AGENTS)]
    for number in range(1 + RENEWALS):
        if number:
            renew(pair, number, by_signal)
        for agent in agents:
            agent.await_more(3)
    check(pair, agents)
    pairs = {(shown(request), request.fields("Authorization")[0]) for request in pair.upstream.requests}
    assert len(pairs) == 1 + RENEWALS
    assert [over for over, token in pairs if claims(token)["cnf"] != {"x5t#S256": over}] == []


@pytest.mark.needs("oauth-server")
def test_what_operators_see_of_a_renewal(site: Site) -> None:
    """Both tokens as long as there are two, and the metrics of the one in use; then the new one alone."""
    pair = TokenPair(site).with_issuer("tls_client_auth").start()
    assert pair.ask().status == 200
    first = pair.held()
    pair.issuer.fault("slow", "token", delay=3)
    renew(pair, 1, by_signal)
    assert pair.ask().status == 200
    assert sorted([held["binding"] for held in pair.status()["tokens"]], key=str) == [None, "bound"]
    labels = {"source": SOURCE, "entry": "tools"}
    assert pair.planner.metric("token_expiry_timestamp_seconds", **labels) == first["expires"]
    eventually(lambda: pair.ask().status == 200 and len(certificates(pair)) == 2, "the new token to be used")
    held = pair.held()
    assert held["refreshed"] > first["refreshed"]
    assert pair.planner.metric("token_expiry_timestamp_seconds", **labels) == held["expires"]
    assert 0 < pair.planner.metric("token_age_seconds", **labels) < now() - first["refreshed"]


@pytest.mark.needs("oauth-server")
def test_a_token_that_is_bound_to_no_certificate_outlives_it(site: Site) -> None:
    pair = TokenPair(site).with_issuer("client_secret_basic").start()
    agents = [Agent(pair, number) for number in range(AGENTS)]
    for number in range(1 + RENEWALS):
        if number:
            renew(pair, number, by_signal)
        eventually(lambda: certificates(pair)[-1:] == [pair.thumbprint()], "requests over new connections")
    lines = check(pair, agents)
    assert len({line["token.id"] for line in lines}) == pair.issuer.count("token") == 1
    assert pair.issuer.revoked == []


@pytest.mark.needs("oauth-server")
def test_renewals_that_come_faster_than_tokens(site: Site) -> None:
    """The issuer does not answer; requests go on over what the last token is bound to, and nobody waits."""
    pair = TokenPair(site).with_issuer("tls_client_auth")
    pair.source["timeout"] = "2s"
    pair.start()
    assert pair.ask("/first").status == 200
    first = pair.thumbprint()
    pair.issuer.fault("hang", "token")
    agents = [Agent(pair, number) for number in range(AGENTS)]
    for number in range(RENEWALS):
        renew(pair, number, by_signal)
        for agent in agents:
            agent.await_more(2)
    assert certificates(pair) == [first]
    assert max(line["duration_ms"] for line in pair.planner.log(event="request")) < 2000, "none waited for the issuer"
    pair.issuer.ok()
    eventually(lambda: certificates(pair) == [first, pair.thumbprint()], "requests over the newest certificate")
    check(pair, agents)
    eventually(lambda: len(pair.issuer.revoked) == len(pair.issuer.state()["tokens"]) - 1, "all others to be revoked")


@pytest.mark.needs("oauth-server")
def test_a_new_key_that_the_issuer_does_not_know_yet(site: Site) -> None:
    """Requests go on with the old certificate and its token; once the new key is registered, with the new ones."""
    pair = TokenPair(site).with_issuer("private_key_jwt").start()
    assert pair.ask("/first").status == 200
    old_key, old = pair.certificate().public_key(), pair.thumbprint()
    renew(pair, 1, by_signal)
    agents = [Agent(pair, number) for number in range(2)]
    eventually(lambda: pair.refreshed("issuer_refused") >= 2, "the issuer to refuse the new key, twice")
    assert certificates(pair) == [old]
    assert "register client_id planner with token_endpoint_auth_method private_key_jwt" in pair.planner.stderr
    pair.issuer.add(by_key(CLIENT, keypair("renewed 1").public_key(), old_key, bound=True))
    eventually(lambda: certificates(pair) == [old, pair.thumbprint()], "the new certificate to be used")
    assert set(agents[0].stop() + agents[1].stop()) == {200}
    (gone,) = {token["jti"] for token in pair.issuer.state()["tokens"] if token["x5t"] == old}
    eventually(lambda: pair.issuer.revoked == [gone], "the old token to be revoked")


@pytest.mark.needs("oauth-server")
@pytest.mark.threat(24)
def test_threat_24_what_was_taken_away_serves_no_longer(site: Site) -> None:
    """Our old certificate's authority is removed: nothing goes out in its name, even if that means that nothing goes out."""
    pair = TokenPair(site).with_issuer("tls_client_auth").start()
    assert pair.ask("/first").status == 200
    other = Ca(key="the next authority", now=now() - DAY)
    pair.issuer.stop()
    for name in ("planner", "tools"):
        site.identity(name, ca=other)
    replace_file(site.path("ca.crt"), other.pem)
    pair.tools.reload()
    pair.planner.reload()
    answer = pair.ask("/after")
    assert (answer.status, answer.json["error"]) == (503, "token_unavailable")
    (planner,) = pair.planner.await_log(event="request", http_path="/after")
    assert planner["error"] == "issuer_unreachable"
    assert pair.upstream.of("/after") == []
    pair.planner.await_stderr("a token could not be revoked")


@pytest.mark.needs("oauth-server")
def test_a_request_that_waits_for_its_first_token_while_the_certificate_is_renewed(site: Site) -> None:
    """It goes out with the new certificate's token, or the old one's: never with one that was revoked before."""
    pair = TokenPair(site).with_issuer("tls_client_auth").start()
    pair.issuer.fault("slow", "token", delay=3)
    pending = Pending(site.agent(pair.planner), "GET", "/first")
    eventually(lambda: pair.issuer.count("token") == 1, "the issuer to be asked")
    renew(pair, 1, by_signal)
    assert pending.answer().status == 200
    assert certificates(pair) == [pair.thumbprint()]
    _, tools = pair.lines("/first")
    (used,) = [token["jti"] for token in pair.issuer.state()["tokens"] if token["x5t"] == pair.thumbprint()]
    assert tools["token.id"] == used
    eventually(lambda: len(pair.issuer.revoked) == 1, "the one that came too late to be revoked")
    assert pair.issuer.revoked != [used]


@pytest.mark.needs("oauth-server")
def test_a_401_that_comes_after_the_renewal(site: Site) -> None:
    """The request is tried once more with what is in force by then."""
    pair = TokenPair(site).with_issuer("tls_client_auth").start()
    pair.upstream.refusals = 1
    pending = Pending(site.agent(pair.planner), "POST", "/hold", body=b"small")
    pair.upstream.await_held()
    first = pair.thumbprint()
    renew(pair, 1, by_signal)
    eventually(lambda: pair.ask("/next").status == 200 and certificates(pair)[-1] != first, "the new certificate")
    eventually(lambda: pair.upstream.release() or pending.over, "the answer")
    assert pending.answer().status == 200
    assert [shown(request) for request in pair.upstream.of("/hold")] == [first, pair.thumbprint()]
