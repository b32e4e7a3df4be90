"""Ensures that an issuer may change its keys, and may have another time than we, and callers hardly notice.

New keys are fetched when a token names one that is not known, at most once in `jwks_interval`; the old key's tokens
are refused from then on, unless it is still published. Clocks may differ by `leeway`, and not by more.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import now
from tests.support.token_pair import LOGIN, Agent, TokenPair, claims

if TYPE_CHECKING:
    from tests.support.processes import Site

pytestmark = pytest.mark.needs("oauth-server")

SLACK = 3.0


def hasty(site: Site, **judge: str) -> TokenPair:
    """Keys may be fetched once a second, and only for need; the planner's tokens can be had by hand."""
    pair = TokenPair(site).with_issuer("tls_client_auth")
    pair.judge |= {"jwks_refresh": "1h", "jwks_max_age": "1h", "jwks_interval": "1s"} | judge
    pair.source["helper"] = True
    return pair


def fetched(pair: TokenPair) -> float:
    return pair.tools.metric("jwks_refreshed_total", issuer=LOGIN, result="ok")


def key_age(pair: TokenPair) -> float:
    return pair.tools.metric("jwks_age_seconds", issuer=LOGIN)


# -- other keys -------------------------------------------------------------------------------------------------------


def rotate(pair: TokenPair, *, keep: bool) -> None:
    """Gives the issuer a new key; returns when the tools' sidecar has it."""
    before = fetched(pair)
    pair.issuer.rotate(keep=keep)
    eventually(lambda: fetched(pair) > before, "the new key to be needed, and fetched")


@pytest.mark.threat(23)
@pytest.mark.parametrize("keep", [True, False], ids=["with-overlap", "without"])
def test_threat_23_keys_change_under_traffic_and_nobody_is_refused(site: Site, *, keep: bool) -> None:
    """The planner's tokens live for 2 s, and so those by the new key come by themselves."""
    pair = hasty(site)
    pair.source["max_lifetime"] = "2s"
    pair.start()
    agents = [Agent(pair, number) for number in range(3)]
    for agent in agents:
        agent.await_more()
    first = pair.token()
    assert pair.call("planner", first, "/first").status == 200
    for _ in range(2):
        # Whoever has just fetched does not do so again within the interval: the next test.
        eventually(lambda: key_age(pair) > 1, "the interval to pass")
        rotate(pair, keep=keep)
        for agent in agents:
            agent.await_more(20)
    assert {answer for agent in agents for answer in agent.stop()} == {200}
    assert fetched(pair) == pair.issuer.count("jwks") == 3
    assert "an issuer has other keys now" in pair.tools.stderr
    answer = pair.call("planner", first, "/old")
    if keep:
        assert answer.status == 200
        return
    assert answer.status == 401
    assert pair.tools.await_log(http_path="/old")[0]["decision.reason"] == "token_key_unknown"


@pytest.mark.threat(23)
def test_threat_23_a_change_right_after_a_fetch_costs_an_interval_at_the_most(site: Site) -> None:
    """Without overlap, and within the interval: what the new key signs is refused until the interval has passed."""
    pair = hasty(site, jwks_interval="3s").start()
    assert pair.ask("/before").status == 200
    pair.issuer.rotate()
    new = pair.token()
    began, statuses = time.monotonic(), []
    while not statuses or statuses[-1] != 200:
        statuses.append(pair.call("planner", new, "/new").status)
    assert time.monotonic() - began < 3 + SLACK
    assert set(statuses[:-1]) == {401}
    assert {line["decision.reason"] for line in pair.tools.await_log(http_status=401)} == {"token_key_unknown"}
    assert pair.issuer.count("jwks") == 2
    # The planner's own token is by the old key: the agent behind it does not notice that either.
    assert pair.ask("/after").status == 200
    assert [line["http.status"] for line in pair.tools.await_log(2, http_path="/after")] == [401, 200]


# -- clocks that differ -----------------------------------------------------------------------------------------------


def test_an_issuers_clock_within_the_leeway_is_no_trouble(site: Site) -> None:
    pair = hasty(site, leeway="20s").start()
    for ahead in (15, -15):
        pair.issuer.set_clock(ahead)
        token = pair.token()
        assert abs(claims(token)["iat"] - now() - ahead) < 5
        assert pair.call("planner", token, f"/{ahead}").status == 200


def test_an_issuer_ahead_of_us_beyond_the_leeway_is_refused(site: Site) -> None:
    """The agent gets the 401: a new token, which was fetched once, is no better."""
    pair = hasty(site, leeway="20s")
    pair.start()
    pair.issuer.set_clock(120)
    answer = pair.ask("/ahead")
    assert answer.status == 401
    assert 'error="invalid_token"' in answer.fields["WWW-Authenticate"]
    reasons = {line["decision.reason"] for line in pair.tools.await_log(2, http_path="/ahead")}
    assert reasons == {"token_not_yet_valid"}
    assert pair.issuer.count("token") == 2
    for _ in range(10):
        assert pair.ask("/ahead/again").status == 401
    assert pair.issuer.count("token") == 2
    assert pair.refused("token_not_yet_valid") == 12
    pair.issuer.set_clock(0)


def test_a_token_ends_with_the_leeway_and_not_before(site: Site) -> None:
    pair = hasty(site, leeway="2s").start()
    pair.issuer.set_clock(-297)  # of 300: it ends in 3 s by our clock
    token = pair.token()
    ends = claims(token)["exp"] + 2
    statuses = []
    while 401 not in statuses:
        before = now()
        statuses.append(pair.call("planner", token, "/late").status)
        assert statuses[-1] == (200 if now() < ends else 401) or before < ends <= now()
    assert set(statuses[:-1]) == {200}
    assert pair.tools.await_log(http_status=401)[0]["decision.reason"] == "token_expired"


def test_a_token_that_is_over_when_it_comes_is_not_used(site: Site) -> None:
    pair = hasty(site).start()
    pair.issuer.set_clock(-600)
    answer = pair.ask("/behind")
    assert (answer.status, answer.json["error"]) == (503, "token_unavailable")
    assert pair.planner.await_log(http_path="/behind")[0]["error"] == "token_expired_on_arrival"
    assert pair.upstream.requests == []
    assert pair.refreshed("token_expired_on_arrival") == 1
