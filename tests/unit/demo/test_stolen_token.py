"""The step of the stolen token can fail: a token that is not the planner's own is noticed, and a replay that gets through."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from sidecar.clock import Clock
from sidecar.demo.outcome import Outcome, UnexpectedError
from sidecar.demo.processes import Crew
from sidecar.demo.stage import AUDIENCE, PLANNER, ROGUE, TOOLS, TOOLS_HOST, Stage
from sidecar.demo.steps import stolen_token
from sidecar.devcerts.generate import generate
from sidecar.devcerts.layout import Order

REFUSED_TOKEN: dict[str, Any] = {
    "version": "TLSv1.3",
    "status": 401,
    "challenge": 'Bearer realm="sidecar", error="invalid_token"',
    "body": {"error": "denied", "decision_id": "r1"},
}
NO_TOKEN = REFUSED_TOKEN | {
    "challenge": 'Bearer realm="sidecar"',
    "body": {"error": "denied", "decision_id": "b1"},
}
SERVED: dict[str, Any] = {
    "listener": "shared",
    "src.identity": PLANNER,
    "http.status": 200,
    "decision": "allow",
    "token.id": "j1",
}
REPLAYED: dict[str, Any] = {
    "listener": "shared",
    "src.identity": ROGUE,
    "decision": "deny",
    "decision.reason": "token_bound_elsewhere",
    "decision.id": "r1",
    "token.id": "j1",
    "incident": "token_bound_elsewhere",
}
BARE: dict[str, Any] = {
    "listener": "shared",
    "src.identity": ROGUE,
    "decision": "deny",
    "decision.reason": "token_missing",
    "decision.id": "b1",
}


@pytest.fixture
def enrolled(stage: Stage) -> Stage:
    generate(Order.parse(stage.certs, ["planner"]), Clock().wall())
    return stage


def steals(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    lines: tuple[dict[str, Any], ...] = (SERVED, REPLAYED, BARE),
    **changes: dict[str, Any],
) -> Outcome:
    """Runs the step; ``seen`` changes what the tools saw, any other name the report of that program."""
    certificate = x509.load_pem_x509_certificate((stage.certs / "planner" / "tls.crt").read_bytes())
    thumbprint = certificate.fingerprint(SHA256()).hex()
    seen = {
        "host": TOOLS_HOST,
        "x-sidecar-caller": PLANNER,
        "x-forwarded-client-cert": f"By={TOOLS};Hash={thumbprint};URI={PLANNER}",
        "authorization": "Bearer, a token",
        "sub": PLANNER,
        "aud": AUDIENCE,
        "jti": "j1",
        "life": "300 s",
        "cnf": thumbprint,
    }
    planner = {"sent": ["accept", "host"], "seen": seen | changes.pop("seen", {})}
    reports = {"planner-with-token": planner, "thief": REFUSED_TOKEN, "without-token": NO_TOKEN}
    monkeypatch.setattr(Crew, "ask", lambda _, name, *__, **___: reports[name] | changes.get(name, {}))
    stage.log("tools").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return stolen_token.run(stage)


def test_a_stolen_token(enrolled: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = steals(enrolled, monkeypatch)
    assert outcome.happened == "replayed: 401, token_bound_elsewhere"
    told = [dict(section.rows) for section in outcome.evidence]
    assert [rows["src.identity"] for rows in told if "src.identity" in rows] == [PLANNER, ROGUE, ROGUE]
    assert [rows["incident"] for rows in told if "incident" in rows] == ["token_bound_elsewhere"]


def test_the_thief_has_the_token_from_the_tools_and_the_other_call_has_none(
    enrolled: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    steals(enrolled, monkeypatch)
    ask, asked = Crew.ask, {}

    def note(crew: Crew, name: str, *arguments: object, **more: Any) -> Any:
        asked[name] = [str(argument) for argument in arguments]
        return ask(crew, name, *arguments, **more)  # type: ignore[arg-type] # as it was called

    monkeypatch.setattr(Crew, "ask", note)
    stolen_token.run(enrolled)
    port = str(enrolled.ports.server)
    assert asked["thief"] == [*asked["without-token"], port]
    assert port not in asked["without-token"]


@pytest.mark.parametrize("sent", [[], ["accept"], ["authorization", "host"], ["cookie", "host"]], ids=str)
def test_a_planner_that_sends_a_credential_or_was_not_looked_at(
    enrolled: Stage, monkeypatch: pytest.MonkeyPatch, sent: list[str]
) -> None:
    with pytest.raises(UnexpectedError, match="the planner sent"):
        steals(enrolled, monkeypatch, **{"planner-with-token": {"sent": sent}})


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ({"sub": ROGUE}, "somebody else's"),
        ({"x-sidecar-caller": ROGUE}, "somebody else's"),
        ({"aud": "https://elsewhere.internal"}, "for somebody else"),
        ({"cnf": "00" * 32}, "not bound"),
        ({"x-forwarded-client-cert": f"By={TOOLS};Hash={'00' * 32};URI={PLANNER}"}, "another certificate"),
    ],
    ids=str,
)
def test_a_token_that_is_not_the_planner_s_own(
    enrolled: Stage, monkeypatch: pytest.MonkeyPatch, seen: dict[str, Any], words: str
) -> None:
    with pytest.raises(UnexpectedError, match=words):
        steals(enrolled, monkeypatch, seen=seen)


@pytest.mark.parametrize("seen", [None, {"host": TOOLS_HOST}], ids=str)
def test_no_token_that_arrives(enrolled: Stage, monkeypatch: pytest.MonkeyPatch, seen: dict[str, Any] | None) -> None:
    with pytest.raises(UnexpectedError, match="saw no token"):
        steals(enrolled, monkeypatch, **{"planner-with-token": {"seen": seen}})


@pytest.mark.parametrize(
    "report",
    [
        {"status": 200},
        {"status": 400},
        {"status": 403, "challenge": None},
        {"challenge": None},
        {"body": {"error": "denied", "decision_id": "r1", "reason": "token_bound_elsewhere"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("who", ["thief", "without-token"])
def test_a_rogue_that_is_not_refused_or_told_too_much(
    enrolled: Stage, monkeypatch: pytest.MonkeyPatch, who: str, report: dict[str, Any]
) -> None:
    with pytest.raises(UnexpectedError, match=r"the rogue|says too much"):
        steals(enrolled, monkeypatch, **{who: report})


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((SERVED | {"token.id": "j2"}, REPLAYED, BARE), "not a line|ended before"),
        ((SERVED, BARE), "ended before"),
        ((SERVED, REPLAYED | {"listener": "mcp"}, BARE), "ended before"),
        ((SERVED, REPLAYED | {"decision": "allow"}, BARE), "otherwise"),
        ((SERVED, REPLAYED | {"src.identity": PLANNER}, BARE), "otherwise"),
        ((SERVED, REPLAYED | {"decision.reason": "token_missing"}, BARE), "another reason"),
        ((SERVED, REPLAYED | {"incident": None}, BARE), "another incident"),
        ((SERVED, REPLAYED | {"token.id": "j2"}, BARE), "another one"),
        ((SERVED, REPLAYED, BARE | {"decision.reason": "caller_not_named"}), "another reason"),
        ((SERVED, REPLAYED, BARE | {"incident": "token_bound_elsewhere"}), "another incident"),
    ],
    ids=str,
)
def test_a_refusal_that_the_log_tells_otherwise(
    enrolled: Stage, monkeypatch: pytest.MonkeyPatch, lines: tuple[dict[str, Any], ...], words: str
) -> None:
    with pytest.raises(UnexpectedError, match=words):
        steals(enrolled, monkeypatch, lines)


@pytest.mark.parametrize(("who", "challenge"), [("thief", NO_TOKEN), ("without-token", REFUSED_TOKEN)])
def test_a_challenge_that_tells_the_wrong_thing(
    enrolled: Stage, monkeypatch: pytest.MonkeyPatch, who: str, challenge: dict[str, Any]
) -> None:
    with pytest.raises(UnexpectedError, match="no good"):
        steals(enrolled, monkeypatch, **{who: {"challenge": challenge["challenge"]}})
