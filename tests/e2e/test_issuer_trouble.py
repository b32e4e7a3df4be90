"""Ensures that an issuer in trouble costs the agent only the requests that need its tokens, and those not for long.

The planner's sidecar asks an authorisation server that is slow, silent, mistaken, somebody else or gone. Each time:
what the agent is answered and within which time, the code in the log, in `/tokens`, in the metrics and on standard
error, that nothing went to the upstream without its token, and that everything else is served meanwhile.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.eventually import eventually
from tests.support.processes import PLANNER, Pending, Site, ask, outbound
from tests.support.raw import farewell, server
from tests.support.token_pair import SOURCE, Agent, TokenPair
from tests.support.web import STRANGER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.support.processes import Answer

pytestmark = pytest.mark.needs("oauth-server")

#: The limit of one step, in seconds; an exchange has two of them, and a token takes two exchanges at the most.
STEP: Final = 1.0
MOST: Final = 4 * STEP
#: What a machine that is busy with other tests adds, in seconds.
SLACK: Final = 3.0
#: What no answer of an issuer may lead to a copy of.
CANARY: Final = "canary-23-4c1d"
METADATA, TOKEN = "metadata", "token"


@dataclass(frozen=True)
class Trouble:
    """What the issuer does at one endpoint, and the code for it. ``source``: how this one is configured."""

    name: str
    code: str
    at: str = ""
    fault: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)


def answering(name: str, code: str, body: object, at: str = TOKEN, **fault: Any) -> Trouble:
    text = body if isinstance(body, str) else json.dumps(body)
    return Trouble(name, code, at, {"mode": "answer", "body": text} | fault)


def token(**changes: Any) -> dict[str, Any]:
    return {"access_token": CANARY, "token_type": "Bearer", "expires_in": 300} | changes


MODES: Final = {
    # It took the request, and then its connection was reset: Python's ssl does not tell that from an end.
    "down": "issuer_bad_answer",
    "hang": "issuer_timeout",
    "drip": "issuer_timeout",
    "slow": "issuer_timeout",
    "html": "issuer_bad_answer",
    "cut": "issuer_bad_answer",
    "huge": "issuer_answer_too_large",
    "500": "issuer_status",
    "redirect": "issuer_status",
}
NAMED: Final = "ISSUER"
"""Stands for the issuer's URL in an answer."""
ANSWERS: Final = [
    answering("empty", "issuer_bad_answer", ""),
    answering("list", "issuer_bad_answer", [token()]),
    answering("no-token", "issuer_bad_answer", {"token_type": "Bearer"}),
    answering("token-twice", "issuer_bad_answer", json.dumps(token())[:-1] + f', "access_token": "{CANARY}-2"}}'),
    answering("dpop", "issuer_bad_answer", token(token_type="DPoP")),
    answering("two-fields", "token_unusable", token(access_token=f"{CANARY}\r\nX-Evil: 1")),
    answering("nul", "token_unusable", token(access_token=f"{CANARY}\0")),
    answering("over", "issuer_bad_answer", token(expires_in=0)),
    answering("refused", "issuer_refused", {"error": "invalid_client", "error_description": CANARY}, status=401),
    answering("busy", "issuer_status", {"error": CANARY}, status=429),
    answering("see-other", "issuer_status", token(), status=303),
    answering("no-endpoint", "issuer_metadata", {"issuer": NAMED}, METADATA),
    answering(
        "of-another",
        "issuer_metadata",
        {"issuer": "https://elsewhere.example", "token_endpoint": f"{NAMED}/token"},
        METADATA,
    ),
    answering("slash", "issuer_metadata", {"issuer": f"{NAMED}/", "token_endpoint": f"{NAMED}/token"}, METADATA),
    answering("in-clear", "issuer_metadata", {"issuer": NAMED, "token_endpoint": "http://localhost:1/token"}, METADATA),
    answering(
        "alias-in-clear",
        "issuer_metadata",
        {
            "issuer": NAMED,
            "token_endpoint": f"{NAMED}/token",
            "mtls_endpoint_aliases": {"token_endpoint": "http://localhost:1/"},
        },
        METADATA,
    ),
]
TROUBLES: Final = [
    *(
        Trouble(f"{mode}-{at}", code, at, {"mode": mode, "delay": 2 * STEP})
        for mode, code in MODES.items()
        for at in (METADATA, TOKEN)
    ),
    *ANSWERS,
    Trouble("wrong-authority", "issuer_tls", source={"ca": "stranger.pem"}),
    Trouble("wrong-host", "issuer_tls", source={"issuer": "https://127.0.0.1:PORT"}),
    Trouble("not-tls", "issuer_tls", source={"issuer": "https://localhost:PLAIN"}),
    Trouble("nobody", "issuer_unreachable", source={"issuer": "https://localhost:1"}),
]


class Planner:
    """One planner with an entry, and so a source, for each trouble, beside one without a token and one without an issuer."""

    def __init__(self, site: Site, troubles: Iterable[Trouble]) -> None:
        self.pair = pair = TokenPair(site).with_issuer("tls_client_auth")
        site.path("stranger.pem").write_bytes(STRANGER.pem)
        pair.tools.config["inbound"][0]["allow"] = [{"caller": PLANNER}]
        pair.planner.config["tokens"] = [{"name": "own", "kind": "self-signed", "audience": "https://tools.internal"}]
        pair.planner.config["outbound"] = []
        self._ports: dict[str, str] = {}
        plain = server(site, farewell)
        self._add("plain")
        self._add("own", token="own")
        for trouble in troubles:
            source = pair.source | {"timeout": f"{STEP:g}s"} | trouble.source | {"name": trouble.name}
            ports = {"PORT": pair.issuer.port, "PLAIN": plain.port}
            for name, port in ports.items():
                source["issuer"] = source["issuer"].replace(name, str(port))
            pair.planner.config["tokens"].append(source)
            self._add(trouble.name, token=trouble.name)
        pair.start()

    def _add(self, name: str, **more: Any) -> None:
        entry = outbound(name, self.pair.tools.port(), **more)
        while entry["listen"] in self._ports.values():
            entry |= {"listen": outbound("", 1)["listen"]}
        self._ports[name] = entry["listen"]
        self.pair.planner.config["outbound"].append(entry)

    def begin(self, entry: str, path: str) -> Pending:
        return Pending(self.pair.site.at(self._ports[entry]), "GET", path)

    def ask(self, entry: str, path: str) -> Answer:
        return ask(self.pair.site.at(self._ports[entry]), "GET", path)

    def error(self, source: str) -> str:
        """What `/tokens` says of it."""
        (found,) = (each for each in self.pair.planner.ask("/tokens").json["tokens"] if each["name"] == source)
        (held,) = found["tokens"]
        return str(held["error"])


@pytest.fixture(scope="module")
def planner() -> Iterator[Planner]:
    with Site() as site:
        yield Planner(site, TROUBLES)


@pytest.fixture(autouse=True)
def well(request: pytest.FixtureRequest) -> Iterator[None]:
    """No fault of one test is there in the next."""
    yield
    if "planner" in request.fixturenames:
        request.getfixturevalue("planner").pair.issuer.ok()


@pytest.mark.threat(21, 23)
@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
def test_each_trouble_is_a_503_in_time_with_a_code_and_nobody_elses(planner: Planner, trouble: Trouble) -> None:
    pair, path = planner.pair, f"/trouble/{trouble.name}"
    if trouble.fault:
        fault = {name: value for name, value in trouble.fault.items() if name != "mode"}
        fault |= {"body": fault["body"].replace(NAMED, pair.issuer.issuer)} if "body" in fault else {}
        pair.issuer.fault(trouble.fault["mode"], trouble.at, **fault)
    began = time.monotonic()
    answer = planner.begin(trouble.name, path).answer()
    assert time.monotonic() - began < MOST + SLACK
    assert (answer.status, answer.json["error"]) == (503, "token_unavailable")
    assert answer.json.keys() == {"error", "decision_id"}

    (line,) = pair.planner.await_log(http_path=path)
    assert (line["error"], line["http.status"], line["decision"]) == (trouble.code, 503, "allow")
    assert planner.error(trouble.name) == trouble.code
    assert pair.planner.metric("tokens_refreshed_total", source=trouble.name, result=trouble.code) == 1
    (told,) = [said for said in pair.planner.stderr.splitlines() if f" source={trouble.name} " in said]
    assert f"code={trouble.code}" in told
    assert "hint=" in told

    assert pair.upstream.of(path) == []
    assert pair.issuer.count("other") == 0  # no redirect was followed
    assert CANARY not in pair.planner.stderr + pair.planner.ask("/tokens").body.decode() + str(answer.body)
    # At once again, it is not asked again.
    asked = {each: pair.issuer.count(each) for each in (METADATA, TOKEN)}
    began = time.monotonic()
    assert planner.ask(trouble.name, path).status == 503
    assert time.monotonic() - began < STEP
    assert {each: pair.issuer.count(each) for each in (METADATA, TOKEN)} == asked
    assert pair.planner.ready


@pytest.mark.threat(23)
@pytest.mark.parametrize("mode", ["hang", "drip"])
def test_all_else_is_served_while_the_issuer_keeps_us_waiting(site: Site, mode: str) -> None:
    planner = Planner(site, TROUBLES[:12])
    pair = planner.pair
    pair.issuer.fault(mode, METADATA, TOKEN)
    waiting = [planner.begin(trouble.name, f"/waits/{trouble.name}") for trouble in TROUBLES[:12]]
    eventually(lambda: pair.issuer.count(METADATA) >= 1, "the issuer to be asked")
    for number in range(5):
        began = time.monotonic()
        assert planner.ask("plain", f"/plain/{number}").status == 200
        assert planner.ask("own", f"/own/{number}").status == 200
        assert pair.planner.ready
        assert time.monotonic() - began < STEP
    assert not all(each.over for each in waiting)
    answers = [each.answer() for each in waiting]
    assert {answer.status for answer in answers} == {503}
    assert {answer.json["error"] for answer in answers} == {"token_unavailable"}
    assert [request for request in pair.upstream.requests if request.path.startswith("/waits")] == []


def test_slow_is_soon_enough_where_it_is_within_the_limit(site: Site) -> None:
    pair = TokenPair(site).with_issuer("tls_client_auth")
    pair.source["timeout"] = "2s"
    pair.start()
    pair.issuer.fault("slow", METADATA, TOKEN, delay=0.5)
    began = time.monotonic()
    assert pair.ask("/slow").status == 200
    assert time.monotonic() - began >= 1.0
    planner, tools = pair.lines("/slow")
    assert "error" not in planner
    assert tools["decision"] == "allow"
    assert pair.held()["error"] is None
    assert pair.ask("/again").status == 200  # with the token that is there
    assert pair.issuer.count(TOKEN) == 1


@pytest.mark.threat(23)
def test_an_issuer_that_is_down_for_long_is_missed_only_when_the_token_has_ended(site: Site) -> None:
    """Its token serves; then 503, however often the agent asks; then it is back, and so are we."""
    pair = TokenPair(site).with_issuer("tls_client_auth")
    pair.source |= {"max_lifetime": "3s", "timeout": f"{STEP:g}s"}
    pair.start()
    assert pair.ask("/first").status == 200
    pair.issuer.stop()
    agent = Agent(pair)
    eventually(lambda: 503 in agent.answers, "the token to end")
    # A pause of half a second, of one, of two at the least: nobody is asked once for each request.
    eventually(
        lambda: agent.answers.count(503) > 5 * pair.refreshed("issuer_unreachable") >= 15,
        "three attempts, and few more",
    )
    assert pair.planner.ready
    assert pair.tools.ready
    assert pair.held() | {"refreshed": 0} == {
        "entry": "tools",
        "binding": None,
        "expires": None,
        "refreshed": 0,
        "error": "issuer_unreachable",
    }
    answers = agent.stop()
    first = answers.index(503)
    assert set(answers[:first]) == {200}
    assert set(answers[first:]) == {503}
    attempts = pair.refreshed("issuer_unreachable")
    lines = pair.planner.await_log(len(answers) - first, http_status=503)
    assert {line["error"] for line in lines} == {"issuer_unreachable"}
    assert max(line["duration_ms"] for line in lines) < 1000 * (STEP + SLACK)
    assert pair.planner.stderr.count("code=issuer_unreachable") == attempts
    assert len(pair.upstream.requests) == 1 + first

    pair.issuer.start()
    began = time.monotonic()
    eventually(lambda: pair.ask("/back").status == 200, "its return to be noticed")
    assert time.monotonic() - began < 8 + SLACK  # the fourth pause
    assert pair.held()["error"] is None
    assert pair.refreshed() == 2
    assert f'result="ok",source="{SOURCE}"' in pair.planner.ask("/metrics").body.decode()
