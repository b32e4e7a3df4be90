"""Ensures that an issuer whose keys are not to be had costs callers no more than it must (THREATS 23).

The tools' sidecar checks tokens with keys of an authorisation server that is gone, slow, mistaken or somebody else.
The last good keys serve for `jwks_max_age`, then a token that only they could prove is 503 `issuer_unavailable`; one
that is bad by itself is 401 throughout. Whatever callers send, the keys are fetched once in `jwks_interval` at the
most.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support import jwts
from tests.support.eventually import eventually
from tests.support.issuer import RESOURCE
from tests.support.processes import PLANNER, Pending, Site, ask, inbound, now
from tests.support.token_pair import LOGIN, Agent, TokenPair
from tests.support.web import STRANGER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.processes import Answer

pytestmark = [pytest.mark.needs("oauth-server"), pytest.mark.threat(23)]

STEP: Final = 1.0
SLACK: Final = 3.0
#: "redirect" leads to an address of the issuer's own, which counts who comes.
MODES: Final = {
    "down": "issuer_bad_answer",
    "hang": "issuer_timeout",
    "drip": "issuer_timeout",
    "slow": "issuer_timeout",
    "html": "issuer_bad_answer",
    "cut": "issuer_bad_answer",
    "huge": "issuer_answer_too_large",
    "500": "issuer_status",
    "redirect": "issuer_status",
    "empty": "issuer_bad_answer",
    "no-keys": "issuer_bad_answer",
    "secret-keys": "issuer_bad_answer",
    "not-found": "issuer_status",
}
ANSWERS: Final[dict[str, dict[str, Any]]] = {
    "empty": {"body": ""},
    "no-keys": {"body": '{"keys":[]}'},
    "secret-keys": {"body": '{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"1"}]}'},
    "not-found": {"body": '{"keys":[]}', "status": 404},
}
#: By configuration: somebody else answers there.
STRANGERS: Final[dict[str, dict[str, str]]] = {
    "wrong-authority": {"ca": "stranger.pem"},
    "wrong-host": {"jwks": "https://127.0.0.1:PORT/jwks"},
}
CASES: Final = MODES | dict.fromkeys(STRANGERS, "issuer_tls")


def token_of(issuer: str, *, kid: str = "unheard-of", **said: Any) -> str:
    """A token in the name of an issuer, which only its keys can tell from a good one; ``said`` changes its claims."""
    moment = int(now())
    good = {"iss": issuer, "aud": RESOURCE, "iat": moment, "exp": moment + 300}
    head = jwts.header(kid=kid)
    text = jwts.compact(jwts.dump(head), jwts.dump(jwts.claims(**(good | said))))
    return f"Bearer {text.decode()}"


def bad_by_themselves(issuer: str) -> dict[str, str]:
    """Tokens that no key can heal, by the code of their refusal."""
    moment = int(now())
    return {
        "token_malformed": "Bearer garbage",
        "token_expired": token_of(issuer, iat=moment - 400, exp=moment - 100),
        "token_audience": token_of(issuer, aud="https://elsewhere.example"),
        "token_issuer": token_of("https://elsewhere.example"),
        "token_key_id": token_of(issuer, kid="../../dev/null"),
    }


def hasty(pair: TokenPair, **more: str) -> TokenPair:
    """Keys are fetched soon and often; the planner's tokens can be had by hand."""
    pair.judge |= {"jwks_refresh": "1s", "jwks_interval": "1s", "timeout": f"{STEP:g}s"} | more
    pair.source["helper"] = True
    return pair


def tried(pair: TokenPair, result: str, issuer: str = LOGIN) -> float:
    return pair.tools.metric("jwks_refreshed_total", issuer=issuer, result=result)


def keys(pair: TokenPair, issuer: str = LOGIN) -> dict[str, Any]:
    """What `/tokens` says of an issuer's keys."""
    (found,) = [each for each in pair.tools.ask("/tokens").json["issuers"] if each["issuer"] == issuer]
    return dict(found)


# -- no keys at all ---------------------------------------------------------------------------------------------------


class Tools:
    """One tools' sidecar with an entry, and an issuer of its configuration, for each case; and one that asks for nothing."""

    def __init__(self, site: Site) -> None:
        self.pair = pair = TokenPair(site).with_issuer("tls_client_auth")
        site.path("stranger.pem").write_bytes(STRANGER.pem)
        entries = [inbound("plain", pair.upstream.port, [{"caller": PLANNER}])]
        pair.tools.config["issuers"] = []
        for name in CASES:
            judge = (
                pair.judge | {"name": name, "jwks_interval": "1s", "timeout": f"{STEP:g}s"} | STRANGERS.get(name, {})
            )
            judge["jwks"] = judge["jwks"].replace("PORT", str(pair.issuer.port))
            pair.tools.config["issuers"].append(judge)
            rule = {"caller": PLANNER, "token": pair.rule | {"issuer": name}}
            entry = inbound(name, pair.upstream.port, [rule])
            while entry["listen"] in {each["listen"] for each in entries}:
                entry |= {"listen": inbound("", 1, [])["listen"]}
            entries.append(entry)
        pair.tools.config["inbound"] = entries
        pair.start()

    def begin(self, entry: str, path: str, authorization: str | None = None) -> Pending:
        (number,) = [n for n, each in enumerate(self.pair.tools.config["inbound"]) if each["name"] == entry]
        fields = {} if authorization is None else {"Authorization": authorization}
        caller = self.pair.site.caller(self.pair.tools.port(entry=number), "planner")
        return Pending(caller, "GET", path, headers=fields)

    def ask(self, entry: str, path: str, authorization: str | None = None) -> Answer:
        return self.begin(entry, path, authorization).answer()


@pytest.fixture(scope="module")
def tools() -> Iterator[Tools]:
    with Site() as site:
        yield Tools(site)


@pytest.mark.parametrize("mode", CASES)
def test_threat_23_without_keys_it_is_503_in_time_and_only_where_keys_are_needed(tools: Tools, mode: str) -> None:
    pair, issuer, path = tools.pair, tools.pair.issuer, f"/keys/{mode}"
    issuer.ok()
    if mode in ANSWERS:
        issuer.fault("answer", "jwks", **ANSWERS[mode])
    elif mode in MODES:
        issuer.fault(mode, "jwks", delay=2 * STEP)
    began = time.monotonic()
    waiting = [tools.begin(mode, f"{path}/{number}", token_of(issuer.issuer)) for number in range(5)]
    if mode in {"hang", "drip", "slow"}:
        eventually(lambda: issuer.count("jwks") >= 1, "the keys to be asked for")
        assert tools.ask("plain", f"/plain/{mode}").status == 200
        assert not any(each.over for each in waiting)
    for code, authorization in bad_by_themselves(issuer.issuer).items():
        assert tools.ask(mode, f"{path}/{code}", authorization).status == 401
        (line,) = pair.tools.await_log(http_path=f"{path}/{code}")
        assert line["decision.reason"] == code
    answers = [each.answer() for each in waiting]
    assert time.monotonic() - began < 2 * STEP + SLACK
    assert {(each.status, each.json["error"]) for each in answers} == {(503, "issuer_unavailable")}
    assert {each.fields["WWW-Authenticate"] for each in answers} == {None}

    lines = [line for number in range(5) for line in pair.tools.await_log(http_path=f"{path}/{number}")]
    assert {(line["decision"], line["decision.reason"], line["http.status"]) for line in lines} == {
        ("deny", "issuer_unavailable", 503)
    }
    assert keys(pair, mode)["error"] == CASES[mode]
    assert keys(pair, mode)["keys"] == 0
    assert tried(pair, CASES[mode], mode) >= 1
    told = [said for said in pair.tools.stderr.splitlines() if f"issuer={mode} " in said]
    assert len(told) == sum(tried(pair, code, mode) for code in set(CASES.values()))
    assert all(f"code={CASES[mode]}" in said for said in told)
    assert issuer.count("other") == 0  # no redirect was followed
    assert [request for request in pair.upstream.requests if request.path.startswith(path)] == []
    assert pair.tools.ready


# -- keys that are there, and an issuer that is not -------------------------------------------------------------------


def test_threat_23_the_last_good_keys_serve_and_then_it_is_503_until_the_issuer_is_back(site: Site) -> None:
    pair = hasty(TokenPair(site).with_issuer("tls_client_auth"), jwks_max_age="4s").start()
    token = pair.token()
    assert pair.call("planner", token, "/first").status == 200
    pair.issuer.stop()
    began, stopped, seen = time.monotonic(), time.monotonic(), []
    while not seen or seen[-1] != 503:
        answer = pair.call("planner", token, "/while")
        seen.append(answer.status)
        assert time.monotonic() - began < 4 + SLACK + 5
    assert set(seen[:-1]) == {200}
    assert len(seen) > 20
    assert answer.json["error"] == "issuer_unavailable"
    (line,) = pair.tools.await_log(http_status=503)
    assert line["decision.reason"] == "issuer_unavailable"
    assert time.monotonic() - stopped > 2.5  # the last fetch was a second ago at the most
    assert pair.tools.ready
    assert keys(pair)["error"] == "issuer_unreachable"
    assert pair.tools.metric("jwks_age_seconds", issuer=LOGIN) > 4

    for code, authorization in bad_by_themselves(pair.issuer.issuer).items():
        assert pair.call("planner", authorization, f"/{code}").status == 401
        assert pair.tools.await_log(http_path=f"/{code}")[0]["decision.reason"] == code
    for _ in range(50):
        assert pair.call("planner", token, "/still").status == 503
    # One attempt in an interval, however many asked.
    assert 2 <= tried(pair, "issuer_unreachable") <= time.monotonic() - stopped + 1
    assert pair.tools.stderr.count("code=issuer_unreachable") == tried(pair, "issuer_unreachable")

    pair.issuer.start()
    began = time.monotonic()
    eventually(lambda: pair.call("planner", token, "/back").status == 200, "its return to be noticed")
    assert time.monotonic() - began < 1 + SLACK
    assert keys(pair)["error"] is None


def test_threat_23_a_flood_of_unknown_keys_is_one_fetch_in_an_interval(site: Site) -> None:
    pair = hasty(
        TokenPair(site).with_issuer("tls_client_auth"), jwks_refresh="1h", jwks_max_age="1h", jwks_interval="2s"
    ).start()
    token = pair.token()
    assert pair.call("planner", token, "/first").status == 200
    began, flood = time.monotonic(), 0
    agent = Agent(pair)
    connection = site.caller(pair.tools.port())
    while time.monotonic() - began < 4.5:
        flood += 1
        strange = token_of(pair.issuer.issuer, kid=f"k{flood}")
        assert ask(connection, "GET", f"/flood/{flood}", headers={"Authorization": strange}).status == 401
    assert set(agent.stop()) == {200}
    fetches = pair.issuer.count("jwks")
    assert flood > 100
    assert 2 <= fetches <= 1 + (time.monotonic() - began) / 2 + 1
    assert tried(pair, "ok") == fetches
    assert pair.refused("token_key_unknown") == flood
    assert [request for request in pair.upstream.requests if "/flood" in request.path] == []
