"""Ensures that a token is renewed before anybody notices, and what is done about one that does not help.

Each time: what the agent is answered, what both logs say, what was counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.issuer import RESOURCE, SCOPES
from tests.support.processes import now
from tests.support.token_pair import Agent, TokenPair, claims

if TYPE_CHECKING:
    from tests.support.processes import Site

pytestmark = pytest.mark.needs("oauth-server")

INVALID = 'Bearer realm="sidecar", error="invalid_token"'


def used(pair: TokenPair, path: str, count: int) -> list[str]:
    """The tokens that came to the tools' sidecar with requests of that path, by their jti."""
    lines = pair.tools.await_log(count, event="request", http_path=path)
    assert len(lines) == count
    return [line["token.id"] for line in lines]


# -- renewal ------------------------------------------------------------------------------------------------------------


def test_tokens_that_live_for_seconds_are_renewed_under_way(site: Site) -> None:
    """The tools' sidecar takes no token that is over, not by a second."""
    pair = TokenPair(site).with_issuer("tls_client_auth", ttl=3)
    pair.judge["leeway"] = "0s"
    pair.start()
    agents = [Agent(pair, number) for number in range(3)]
    eventually(lambda: pair.refreshed() >= 5, "five tokens to be fetched", 40)
    answers = [answer for agent in agents for answer in agent.stop()]
    assert set(answers) == {200}
    lines = pair.tools.await_log(len(answers), event="request")
    assert {line["decision"] for line in lines} == {"allow"}
    # All that were fetched were used, but perhaps the last one, and nobody went back to an older one.
    fetched = [token["jti"] for token in pair.issuer.state()["tokens"]]
    order = list(dict.fromkeys(line["token.id"] for line in lines))
    assert order == fetched[: len(order)]
    assert len(order) >= len(fetched) - 1
    assert pair.tools.metric("tokens_refused_total") == 0


def test_the_configuration_shortens_a_life(site: Site) -> None:
    """The issuer's tokens live for 5 minutes; ours are kept for 2 s."""
    pair = TokenPair(site).with_issuer("tls_client_auth")
    pair.source["max_lifetime"] = "2s"
    pair.start()
    agent = Agent(pair)
    eventually(lambda: pair.refreshed() >= 3, "three tokens to be fetched", 30)
    assert set(agent.stop()) == {200}
    held = pair.held()
    assert held["expires"] - held["refreshed"] <= 2 + 1


def test_nothing_is_fetched_while_nobody_asks(site: Site) -> None:
    pair = TokenPair(site).with_issuer("tls_client_auth", ttl=2)
    pair.start()
    assert pair.ask("/one").status == 200
    eventually(lambda: pair.held()["binding"] is None or pair.held()["expires"] < now(), "the token to end")
    assert pair.issuer.count("token") == 1
    assert pair.ask("/two").status == 200
    assert pair.issuer.count("token") == 2


def test_a_token_that_is_over_is_refused(site: Site) -> None:
    pair = TokenPair(site).with_issuer("tls_client_auth", ttl=2)
    pair.judge["leeway"] = "0s"
    pair.source["helper"] = True
    pair.start()
    token = pair.token()
    assert pair.call("planner", token, "/in-time").status == 200
    eventually(lambda: now() >= claims(token)["exp"], "its end")
    answer = pair.call("planner", token, "/late")
    assert (answer.status, answer.fields["WWW-Authenticate"]) == (401, INVALID)
    (line,) = pair.tools.await_log(event="request", http_path="/late")
    assert line["decision.reason"] == "token_expired"
    assert pair.refused("token_expired") == 1
    assert pair.upstream.of("/late") == []


def test_a_token_that_lives_too_long_for_its_rule(site: Site) -> None:
    pair = TokenPair(site).with_issuer("tls_client_auth")
    pair.rule["max_lifetime"] = "1m"
    pair.start()
    assert pair.ask("/x").status == 401
    used(pair, "/x", 2)
    assert pair.refused("token_lives_too_long") == 2
    pair.tools.await_stderr("a valid token lives longer than its rule allows")
    (said, _) = [line for line in pair.tools.stderr.splitlines() if "lives longer" in line]
    assert "key=inbound.tools.allow[0].token.max_lifetime" in said.replace('"', "")
    assert "lives_seconds=300" in said
    assert pair.issuer.state()["kids"][0] in said


# -- what does not help -------------------------------------------------------------------------------------------------


def test_a_token_for_another_audience(site: Site) -> None:
    """The 401 of the tools' sidecar passes to the agent, after one more try with a new token; the next request is tried once."""
    resources = {RESOURCE: {"scope": SCOPES, "audience": "https://other.internal"}}
    pair = TokenPair(site).with_issuer("tls_client_auth", resources=resources).start()
    answer = pair.ask("/x")
    assert (answer.status, answer.fields["WWW-Authenticate"]) == (401, INVALID)
    lines = pair.tools.await_log(2, event="request", http_path="/x")
    assert [(line["http.status"], line["decision"], line["decision.reason"]) for line in lines] == [
        (401, "deny", "token_audience")
    ] * 2
    assert [line["decision.id"] for line in lines].index(answer.json["decision_id"]) == 1
    assert "token.id" not in lines[0], "whoever signed it, it is not for us"
    (planner,) = pair.planner.await_log(event="request", http_path="/x")
    assert (planner["http.status"], planner["decision"]) == (401, "allow")
    assert pair.refused("token_audience") == 2
    assert pair.issuer.count("token") == pair.refreshed() == 2
    assert pair.ask("/y").status == 401
    pair.lines("/y")
    assert pair.issuer.count("token") == 2, "the issuer is not asked once for each request"
    assert pair.upstream.requests == []
    assert pair.incidents == 0


def test_a_scope_that_is_missing(site: Site) -> None:
    pair = TokenPair(site).with_issuer("tls_client_auth")
    pair.source["scopes"] = ["tools:read"]
    pair.rule["scopes"] = ["tools:read", "tools:write"]
    pair.start()
    answer = pair.ask("/x")
    assert answer.status == 403
    assert answer.fields["WWW-Authenticate"] == 'Bearer realm="sidecar", error="insufficient_scope"'
    planner, tools = pair.lines("/x")
    assert (planner["http.status"], planner["decision"]) == (403, "allow")
    assert (tools["decision"], tools["decision.reason"]) == ("deny", "token_scope")
    assert (tools["token.scopes"], pair.refused("token_scope")) == ("tools:read", 1)
    assert pair.issuer.count("token") == 1, "a new token would say the same"
    assert pair.upstream.requests == []


def test_a_scope_that_the_issuer_does_not_grant(site: Site) -> None:
    pair = TokenPair(site).with_issuer("tls_client_auth", resources={RESOURCE: {"scope": "tools:read"}}).start()
    assert pair.ask("/x").status == 503
    (planner,) = pair.planner.await_log(event="request", http_path="/x")
    assert planner["error"] == "issuer_refused"
    assert "1 of 2 scopes were not granted: tools:write" in pair.planner.stderr
    assert pair.upstream.requests == []


@pytest.mark.parametrize("body", [None, b"", b"small", b"x" * 60_000])
def test_a_401_is_tried_once_more_with_a_new_token(site: Site, body: bytes | None) -> None:
    pair = TokenPair(site).with_issuer("tls_client_auth").start()
    pair.upstream.refusals = 1
    assert pair.ask("/x", "GET" if body is None else "POST", body=body).status == 200
    one, two = pair.upstream.of("/x")
    assert (one.method, one.size, one.digest) == (two.method, two.size, two.digest)
    assert one.size == len(body or b"")
    assert used(pair, "/x", 2) == [token["jti"] for token in pair.issuer.state()["tokens"]]
    (planner,) = pair.planner.await_log(event="request", http_path="/x")
    assert (planner["http.status"], pair.refreshed()) == (200, 2)
    assert pair.planner.metric("requests_total", status_class="2xx") == 1


def test_a_second_401_is_the_answer(site: Site) -> None:
    pair = TokenPair(site).with_issuer("tls_client_auth").start()
    pair.upstream.refusals = 9
    answer = pair.ask("/x", "POST", body=b"small")
    assert (answer.status, answer.body) == (401, b"hello\n")
    assert len(pair.upstream.of("/x")) == 2
    (planner,) = pair.planner.await_log(event="request", http_path="/x")
    assert (planner["http.status"], planner["decision"]) == (401, "allow")
    assert pair.refreshed() == 2


def test_a_401_to_what_was_not_kept_is_the_answer(site: Site) -> None:
    """The token is dropped all the same: the next request has a new one."""
    pair = TokenPair(site).with_issuer("tls_client_auth").start()
    pair.upstream.refusals = 1
    assert pair.ask("/large", "POST", body=b"x" * 100_000).status == 401
    assert len(pair.upstream.of("/large")) == 1
    assert pair.ask("/next").status == 200
    assert [*used(pair, "/large", 1), *used(pair, "/next", 1)] == [
        token["jti"] for token in pair.issuer.state()["tokens"]
    ]
