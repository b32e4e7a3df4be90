"""Ensures that a real authorisation server's tokens go along with an agent's requests and are checked on the other side.

The agent has no credential and sees none; the agent behind gets none, but is told who asks. Each way to prove to the
issuer who we are, what it is worth, and what operators see of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.issuer import RESOURCE
from tests.support.oauth_clients import by_key
from tests.support.processes import PLANNER
from tests.support.token_pair import BY_SECRET, CLIENT, LOGIN, SOURCE, TokenPair, claims

if TYPE_CHECKING:
    from tests.support.processes import Site

pytestmark = pytest.mark.needs("oauth-server")

BY_OUR_KEY = ("tls_client_auth", "self_signed_tls_client_auth", "private_key_jwt")


@pytest.mark.parametrize("client_auth", [*BY_OUR_KEY, *BY_SECRET])
@pytest.mark.threat(20)
def test_threat_20_a_request_gets_a_token_and_loses_it_again(site: Site, client_auth: str) -> None:
    """What the agent itself sent is gone before, what the planner's sidecar sent is gone behind."""
    pair = TokenPair(site).with_issuer(client_auth).start()
    assert pair.held() == {"entry": "tools", "binding": None, "expires": None, "refreshed": None, "error": None}
    assert pair.issuer.count("token") == 0, "nobody asked for one yet"
    own = {"Authorization": "Bearer of-the-agent", "X-Token-Subject": "root"}
    for path in ("/one", "/two"):
        assert pair.ask(path, headers=own).status == 200
    (request, _) = pair.upstream.requests
    assert request.fields("Authorization") == []
    assert b"of-the-agent" not in request.head
    assert request.fields("X-Token-Subject") == [CLIENT]
    assert request.fields("X-Token-Scope") == ["tools:read tools:write"]
    (token,) = pair.issuer.state()["tokens"]
    assert token["method"] == client_auth
    assert token["x5t"] == (None if client_auth in BY_SECRET else pair.thumbprint())
    planner, tools = pair.lines("/one")
    assert not [name for name in planner if name.startswith("token.")]
    assert {name: value for name, value in tools.items() if name.startswith("token.")} == {
        "token.issuer": pair.issuer.issuer,
        "token.subject": CLIENT,
        "token.id": token["jti"],
        "token.scopes": "tools:read tools:write",
    }
    assert (tools["decision"], tools["decision.rule"]) == ("allow", "inbound.tools.allow[0]")


@pytest.mark.parametrize(("client_auth", "binding"), [("tls_client_auth", "bound"), ("client_secret_post", "bearer")])
def test_what_operators_see(site: Site, client_auth: str, binding: str) -> None:
    pair = TokenPair(site).with_issuer(client_auth).start()
    assert pair.ask().status == 200
    (token,) = pair.issuer.state()["tokens"]
    status = pair.status()
    (held,) = status.pop("tokens")
    gap = {"known_gap": "a static client secret"} if client_auth in BY_SECRET else {}
    assert status == gap | {
        "name": SOURCE,
        "kind": "oauth2",
        "issuer": pair.issuer.issuer,
        "client_auth": client_auth,
        "scopes": ["tools:read", "tools:write"],
        "audience": None,
        "resource": RESOURCE,
        "helper": False,
    }
    assert (held["entry"], held["binding"], held["error"]) == ("tools", binding, None)
    assert 0 < held["expires"] - held["refreshed"] <= token["expires_in"] + 1
    (issuer,) = pair.tools.ask("/tokens").json["issuers"]
    assert (issuer["issuer"], issuer["keys"], issuer["error"]) == (LOGIN, 1, None)
    assert pair.refreshed() == 1
    assert pair.planner.metric("token_expiry_timestamp_seconds", source=SOURCE, entry="tools") == held["expires"]
    assert 0 < pair.planner.metric("token_age_seconds", source=SOURCE, entry="tools") < 60
    assert pair.tools.metric("jwks_refreshed_total", issuer=LOGIN, result="ok") == 1
    assert 0 < pair.tools.metric("jwks_age_seconds", issuer=LOGIN) < 60
    assert pair.tools.metric("tokens_refused_total") == pair.incidents == 0


def test_a_secret_is_told_to_be_a_known_gap(site: Site) -> None:
    pair = TokenPair(site).with_issuer("client_secret_basic")
    pair.planner.write()
    checked = site.command("check", str(pair.planner.file))
    assert checked.returncode == 0
    assert "known gap" in checked.stdout + checked.stderr


@pytest.mark.parametrize("client_auth", BY_OUR_KEY)
@pytest.mark.threat(21)
def test_threat_21_our_certificate_is_shown_where_it_is_asked_for_and_nowhere_else(
    site: Site, client_auth: str
) -> None:
    pair = TokenPair(site).with_issuer(client_auth).start()
    assert pair.ask().status == 200
    requests = pair.issuer.state()["requests"]
    shown = {(each["endpoint"], each["listener"], each["certificate"] is not None) for each in requests}
    assert shown == {("metadata", "plain", False), ("token", "mtls", True), ("jwks", "plain", False)}
    assert {each["tls"] for each in requests if each["listener"] == "mtls"} == {"TLSv1.3"}


def test_an_assertion_without_our_certificate(site: Site) -> None:
    """``bound: false``: the certificate is not shown, the token is anybody's, and a rule has to allow that."""
    pair = TokenPair(site).with_issuer("private_key_jwt")
    pair.issuer.add(by_key(CLIENT, pair.certificate().public_key()))
    pair.source["bound"] = pair.rule["bound"] = False
    pair.start()
    assert pair.ask("/anybodys").status == 200
    assert {each["listener"] for each in pair.issuer.state()["requests"]} == {"plain"}
    assert pair.held()["binding"] == "bearer"
    pair.rule["bound"] = True
    pair.tools.reload()
    answer = pair.ask("/must-be-bound")
    assert answer.status == 401
    lines = pair.tools.await_log(2, event="request", http_path="/must-be-bound")
    assert [(line["decision"], line["decision.reason"]) for line in lines] == [("deny", "token_not_bound")] * 2
    issued = [token["jti"] for token in pair.issuer.state()["tokens"]]
    assert [line["token.id"] for line in lines] == issued, "a new token was tried, once"
    assert pair.refused("token_not_bound") == 2


def test_a_client_that_the_issuer_does_not_bind_is_told_so(site: Site) -> None:
    pair = TokenPair(site).with_issuer("private_key_jwt")
    pair.issuer.add(by_key(CLIENT, pair.certificate().public_key()))
    pair.start()
    answer = pair.ask("/x")
    assert (answer.status, answer.json["error"]) == (503, "token_unavailable")
    (planner,) = pair.planner.await_log(event="request", http_path="/x")
    assert (planner["http.status"], planner["error"]) == (503, "token_not_bound_to_us")
    assert "tls_client_certificate_bound_access_tokens" in pair.planner.stderr
    assert pair.upstream.requests == []
    assert pair.refreshed("token_not_bound_to_us") == 1
    assert pair.held()["error"] == "token_not_bound_to_us"


def test_a_client_id_may_be_our_own_name(site: Site) -> None:
    pair = TokenPair(site).with_issuer("tls_client_auth")
    pair.issuer.add(pair.registration("tls_client_auth") | {"client_id": PLANNER})
    del pair.source["client_id"]
    pair.source["helper"] = True
    pair.start()
    assert pair.ask().status == 200
    assert pair.lines("/hello")[1]["token.subject"] == PLANNER
    assert claims(pair.token())["client_id"] == PLANNER


def test_the_issuer_may_have_one_port_for_all(site: Site) -> None:
    """It asks everybody for a certificate, and gets one from whoever is to be known by it."""
    pair = TokenPair(site).with_issuer("tls_client_auth", aliases=False, path="/realms/one").start()
    assert pair.ask().status == 200
    shown = {(each["endpoint"], each["certificate"] is not None) for each in pair.issuer.state()["requests"]}
    assert shown == {("metadata", False), ("token", True), ("jwks", False)}
