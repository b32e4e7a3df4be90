"""Ensures that a stolen token helps nobody, and that its owner is not taken for a thief after a renewal (THREATS 22).

The token is a real one, of the planner's, and the thief has all that a thief can have: it, and an identity of his own that
the rules name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.oauth_clients import by_secret
from tests.support.processes import PLANNER
from tests.support.token_pair import CLIENT, SECRET, TokenPair, claims

if TYPE_CHECKING:
    from tests.support.processes import Site

OTHER = "spiffe://example.org/agent/other/1"
INVALID = 'Bearer realm="sidecar", error="invalid_token"'

KINDS = ["self-signed", pytest.param("oauth2", marks=pytest.mark.needs("oauth-server"))]


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, site: Site) -> TokenPair:
    """Not started. Both callers are named by a rule, with the same requirement."""
    made = TokenPair(site)
    if request.param == "oauth2":
        made.with_issuer("tls_client_auth")
    made.source["helper"] = True
    made.tools.config["inbound"][0]["allow"].append({"caller": OTHER, "token": made.rule})
    return made


def denied(pair: TokenPair, path: str) -> dict[str, Any]:
    """The line of the one denial; nothing of the request was passed on."""
    (line,) = pair.tools.await_log(event="request", http_path=path)
    assert (line["http.status"], line["decision"]) == (401, "deny")
    assert pair.upstream.of(path) == []
    return line


@pytest.mark.threat(22)
def test_threat_22_a_stolen_token_is_refused_and_somebody_is_told(pair: TokenPair) -> None:
    pair.start()
    token = pair.token()
    assert pair.call("planner", token, "/owner").status == 200
    answer = pair.call("other", token, "/stolen")
    assert (answer.status, answer.fields["WWW-Authenticate"]) == (401, INVALID)
    assert set(answer.json) == {"error", "decision_id"}
    line = denied(pair, "/stolen")
    assert line["decision.id"] == answer.json["decision_id"]
    assert (line["decision.reason"], line["incident"]) == ("token_bound_elsewhere", "token_bound_elsewhere")
    assert line["src.identity"] == OTHER
    assert line["token.id"] == claims(token)["jti"]
    assert line["token.subject"] == claims(token)["sub"]
    assert pair.tools.metric("incidents_total", kind="token_bound_elsewhere") == pair.incidents == 1
    assert pair.refused("token_bound_elsewhere") == 1
    (told,) = [text for text in pair.tools.stderr.splitlines() if "incident" in text]
    assert "a caller showed a token that is bound to another certificate" in told
    assert line["decision.id"] in told
    assert token.split(" ")[1] not in pair.tools.stderr
    assert pair.call("planner", token, "/owner-again").status == 200, "the owner goes on"


@pytest.mark.threat(22)
def test_threat_22_a_second_certificate_for_the_same_name_is_not_enough(pair: TokenPair, site: Site) -> None:
    """Who got a certificate for the planner's name from the authority, and the planner's token from elsewhere."""
    pair.start()
    token = pair.token()
    site.identity("twin", "/agent/planner/1")
    assert pair.call("twin", token, "/twin").status == 401
    line = denied(pair, "/twin")
    assert (line["src.identity"], line["incident"]) == (PLANNER, "token_bound_elsewhere")
    assert pair.incidents == 1


@pytest.mark.threat(22)
def test_threat_22_a_rule_that_takes_unbound_tokens_takes_no_stolen_one(pair: TokenPair) -> None:
    pair.rule["bound"] = False
    pair.start()
    assert pair.call("other", pair.token(), "/stolen").status == 401
    assert denied(pair, "/stolen")["incident"] == "token_bound_elsewhere"
    assert pair.incidents == 1


def test_the_owner_of_a_token_from_before_a_renewal_is_no_thief(pair: TokenPair) -> None:
    """The certificate of the token was shown here, in this name, until a moment ago."""
    pair.start()
    token = pair.token()
    assert pair.call("planner", token, "/before").status == 200
    pair.renew()
    answer = pair.call("planner", token, "/after")
    assert (answer.status, answer.fields["WWW-Authenticate"]) == (401, INVALID)
    line = denied(pair, "/after")
    assert line["decision.reason"] == "token_rotated"
    assert "incident" not in line
    assert (pair.refused("token_rotated"), pair.incidents) == (1, 0)
    assert "incident" not in pair.tools.stderr


@pytest.mark.threat(22)
def test_threat_22_a_thief_right_after_the_renewal_is_a_thief(pair: TokenPair) -> None:
    pair.start()
    token = pair.token()
    assert pair.call("planner", token, "/before").status == 200
    pair.renew()
    assert pair.call("planner", token, "/after").status == 401
    assert pair.call("other", token, "/stolen").status == 401
    assert denied(pair, "/stolen")["incident"] == "token_bound_elsewhere"
    assert pair.incidents == 1


def test_the_renewal_is_remembered_over_a_reload(pair: TokenPair) -> None:
    pair.start()
    token = pair.token()
    assert pair.call("planner", token, "/before").status == 200
    pair.tools.config["drain_timeout"] = "2s"
    pair.tools.reload()
    pair.renew()
    assert pair.call("planner", token, "/after").status == 401
    assert denied(pair, "/after")["decision.reason"] == "token_rotated"


@pytest.mark.needs("oauth-server")
def test_an_unbound_token_passes_from_hand_to_hand_where_a_rule_allows_it(site: Site) -> None:
    """Why `bound` is the default: nothing tells the thief of such a token from its owner but the caller's own name."""
    pair = TokenPair(site).with_issuer("client_secret_basic")
    pair.issuer.add(by_secret(CLIENT, SECRET))
    pair.source["helper"] = True
    pair.tools.config["inbound"][0]["allow"].append({"caller": OTHER, "token": pair.rule | {"bound": True}})
    pair.start()
    token = pair.token()
    assert pair.call("planner", token, "/allowed").status == 200
    assert pair.call("other", token, "/not-allowed").status == 401
    assert denied(pair, "/not-allowed")["decision.reason"] == "token_not_bound"
    assert pair.incidents == 0


@pytest.mark.threat(20)
def test_threat_20_no_token_two_tokens_and_one_in_the_query(pair: TokenPair) -> None:
    pair.start()
    token = pair.token()
    answer = pair.call("planner", None, "/none")
    assert (answer.status, answer.fields["WWW-Authenticate"]) == (401, 'Bearer realm="sidecar"')
    assert denied(pair, "/none")["decision.reason"] == "token_missing"
    assert pair.call("planner", None, f"/query?access_token={token.split(' ')[1]}").status == 401
    assert denied(pair, "/query")["decision.reason"] == "token_missing"
    caller = pair.site.caller(pair.tools.port())
    caller.putrequest("GET", "/two")
    for value in (token, token):
        caller.putheader("Authorization", value)
    caller.endheaders()
    assert caller.getresponse().status == 400
    assert pair.upstream.requests == []
