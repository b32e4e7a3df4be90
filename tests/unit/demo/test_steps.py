"""Each step can fail: whatever a broken sidecar would do is noticed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.demo import plain
from sidecar.demo.outcome import UnexpectedError
from sidecar.demo.processes import Crew, Process
from sidecar.demo.stage import PLANNER, ROGUE, TOOLS, TOOLS_HOST, Stage
from sidecar.demo.steps import copied_key, impostor, named_caller, no_certificate, spoofed_identity, unnamed_caller

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, *lines: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def reports(monkeypatch: pytest.MonkeyPatch, report: dict[str, Any]) -> None:
    monkeypatch.setattr(Crew, "ask", lambda *_, **__: report)


def answers(monkeypatch: pytest.MonkeyPatch, status: int, body: object) -> None:
    monkeypatch.setattr(plain, "get", lambda *_, **__: plain.Answer(status, body))


# -- a caller that is named

SESSION: dict[str, Any] = {
    "protocol": "2025-11-25",
    "server": "tools",
    "tools": ["add", "who_calls"],
    "sum": 5,
    "progress": [1, 2],
    "seen": {"host": TOOLS_HOST, "x-sidecar-caller": PLANNER, "x-forwarded-client-cert": f"By={TOOLS};URI={PLANNER}"},
}
CALL = {
    "http.method": "POST",
    "http.path": "/mcp",
    "http.status": 200,
    "decision": "allow",
    "src.identity": PLANNER,
    "dst.identity": TOOLS,
    "trace.id": "1",
}


def named(stage: Stage, monkeypatch: pytest.MonkeyPatch, **changes: object) -> str:
    reports(monkeypatch, SESSION | changes)
    return named_caller.run(stage).happened


def test_a_named_caller(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    write(stage.log("planner"), CALL)
    write(stage.log("tools"), CALL)
    assert "answered" in named(stage, monkeypatch)


@pytest.mark.parametrize(
    "changes",
    [
        {"tools": []},
        {"sum": 4},
        {"progress": []},
        {"seen": None},
        {"seen": SESSION["seen"] | {"x-sidecar-caller": ROGUE}},
        {"seen": SESSION["seen"] | {"host": "127.0.0.1"}},
    ],
    ids=str,
)
def test_a_session_that_goes_wrong(stage: Stage, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]) -> None:
    write(stage.log("planner"), CALL)
    write(stage.log("tools"), CALL)
    with pytest.raises(UnexpectedError):
        named(stage, monkeypatch, **changes)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (CALL | {"dst.identity": ROGUE}, CALL),
        (CALL, CALL | {"src.identity": ROGUE}),
        (CALL, CALL | {"trace.id": "2"}),
        (CALL, CALL | {"decision": "deny"}),
    ],
)
def test_an_identity_that_was_not_proven(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, ours: dict[str, object], theirs: dict[str, object]
) -> None:
    write(stage.log("planner"), ours)
    write(stage.log("tools"), theirs)
    with pytest.raises(UnexpectedError):
        named(stage, monkeypatch)


# -- a caller that nobody named

DENIED: dict[str, Any] = {"version": "TLSv1.3", "status": 403, "body": {"error": "denied", "decision_id": "d1"}}
DENIAL = {"decision.id": "d1", "decision": "deny", "decision.reason": "caller_not_named", "src.identity": ROGUE}


def test_an_unnamed_caller(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    reports(monkeypatch, DENIED)
    write(stage.log("tools"), DENIAL)
    assert unnamed_caller.run(stage).happened == "403, caller_not_named"


@pytest.mark.parametrize(
    "report",
    [
        DENIED | {"status": 200},
        {"alert": "TLSV13_ALERT_CERTIFICATE_REQUIRED"},
        DENIED | {"body": {"error": "denied"}},
        DENIED | {"body": {"error": "denied", "decision_id": "d1", "reason": "caller_not_named"}},
        DENIED | {"body": {"error": "denied", "decision_id": "d2"}},
    ],
    ids=str,
)
def test_a_denial_that_is_none_or_says_too_much(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, report: dict[str, object]
) -> None:
    reports(monkeypatch, report)
    write(stage.log("tools"), DENIAL)
    with pytest.raises(UnexpectedError):
        unnamed_caller.run(stage)


@pytest.mark.parametrize("change", [{"decision": "allow"}, {"src.identity": PLANNER}], ids=str)
def test_a_denial_that_the_log_tells_otherwise(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    reports(monkeypatch, DENIED)
    write(stage.log("tools"), DENIAL | change)
    with pytest.raises(UnexpectedError):
        unnamed_caller.run(stage)


# -- an impostor

REFUSED = {"decision.id": "d1", "error": "peer_pin_mismatch"}
SEEN = {
    "event": "visitor",
    "hello": 240,
    "answered": 1400,
    "after_answer": 0,
    "finished": False,
    "certificate": None,
}


def test_an_impostor(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, 502, {"error": "upstream_tls", "decision_id": "d1"})
    write(stage.log("planner"), REFUSED)
    write(stage.running["impostor"].stdout, SEEN)
    assert "peer_pin_mismatch" in impostor.run(stage).happened


@pytest.mark.parametrize(
    ("status", "line", "seen"),
    [
        (200, {}, {}),
        (502, {"decision.id": "d2"}, {}),
        (502, {"error": "upstream_refused"}, {}),
        (502, {}, {"event": "listening"}),
        (502, {}, {"answered": 0}),
        (502, {}, {"after_answer": 1}),
        (502, {}, {"finished": True}),
        (502, {}, {"certificate": PLANNER}),
    ],
    ids=str,
)
def test_an_impostor_that_got_further(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, status: int, line: dict[str, object], seen: dict[str, object]
) -> None:
    answers(monkeypatch, status, {"error": "upstream_tls", "decision_id": "d1"})
    write(stage.log("planner"), REFUSED | line)
    write(stage.running["impostor"].stdout, SEEN | seen)
    with pytest.raises(UnexpectedError):
        impostor.run(stage)


def test_a_second_visit_counts_too(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, 502, {"error": "upstream_tls", "decision_id": "d1"})
    write(stage.log("planner"), REFUSED)
    write(stage.running["impostor"].stdout, {"event": "listening"}, SEEN, SEEN | {"certificate": PLANNER})
    with pytest.raises(UnexpectedError):
        impostor.run(stage)


# -- a spoofed identity

ARRIVED = [
    ["host", TOOLS_HOST],
    ["x-forwarded-client-cert", f"By={TOOLS};Hash=00;URI={PLANNER}"],
    ["x-sidecar-caller", PLANNER],
]


def test_a_spoofed_identity(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, 200, ARRIVED)
    assert "4 removed" in spoofed_identity.run(stage).happened


@pytest.mark.parametrize(
    "arrived",
    [
        [],
        ARRIVED[:2],
        [*ARRIVED, ["X_Sidecar_Caller", PLANNER]],
        [*ARRIVED, ["x-sidecar-caller", PLANNER]],
        [*ARRIVED, ["x-other", spoofed_identity.ADMIN]],
        [*ARRIVED[:2], ["x-sidecar-caller", ROGUE]],
        [ARRIVED[0], ["x-forwarded-client-cert", f"By={TOOLS};Hash=00;URI={ROGUE}"], ARRIVED[2]],
    ],
    ids=str,
)
def test_a_spoofed_identity_that_arrives(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, arrived: list[list[str]]
) -> None:
    answers(monkeypatch, 200, arrived)
    with pytest.raises(UnexpectedError):
        spoofed_identity.run(stage)


def test_a_spoofed_request_that_is_not_answered(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, 502, {})
    with pytest.raises(UnexpectedError):
        spoofed_identity.run(stage)


# -- no certificate

CLOSED: dict[str, Any] = {"addr": "127.0.0.1:9", "alert": "TLSV13_ALERT_CERTIFICATE_REQUIRED"}
LINE = {"event": "refused", "src.addr": "127.0.0.1:9", "decision": "deny", "decision.reason": "no_certificate"}


def test_no_certificate(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    reports(monkeypatch, CLOSED)
    write(stage.log("tools"), LINE)
    assert "certificate_required" in no_certificate.run(stage).happened


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (CLOSED | {"status": 200}, LINE),
        (CLOSED | {"alert": "TLSV1_ALERT_UNKNOWN_CA"}, LINE),
        ({"addr": "127.0.0.1:9", "broken": "ConnectionResetError"}, LINE),
        (CLOSED, LINE | {"src.addr": "127.0.0.1:8"}),
        (CLOSED, LINE | {"event": "request"}),
    ],
    ids=str,
)
def test_a_stranger_that_got_further(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, report: dict[str, object], line: dict[str, object]
) -> None:
    reports(monkeypatch, report)
    write(stage.log("tools"), line)
    with pytest.raises(UnexpectedError):
        no_certificate.run(stage)


# -- a copied key

SIGNED = (0, "key         somewhere\nprotection  tpm: really\nsigns       yes, in 1.0 ms\n", "")
REFUSED_BY_TPM = (2, "", "sidecar: loading the wrapped key into the TPM: it did not make it (0x1df)\n    hint\n")


class Shown:
    """A `sidecar key show` that has ended."""

    def __init__(self, code: int) -> None:
        self.returncode = code

    def poll(self) -> int:
        return self.returncode

    def wait(self, _: float) -> int:
        return self.returncode


@pytest.fixture
def looted(stage: Stage) -> Stage:
    for path in (stage.certs / "planner/tls.tpm.pem", stage.certs / "rogue/tls.key"):
        path.parent.mkdir(parents=True)
        path.write_text("a key")
    return stage


def shows(stage: Stage, monkeypatch: pytest.MonkeyPatch, **answers: tuple[int, str, str]) -> None:
    """What `sidecar key show` says to the owner, to the thief, and of the key in a file."""

    def start(crew: Crew, name: str, *_: object) -> Process:
        code, out, err = answers[name.removeprefix("copied-")]
        stdout, stderr = stage.folder / f"{name}.out", stage.folder / f"{name}.err"
        stdout.write_text(out)
        stderr.write_text(err)
        process = Process(name, Shown(code), stdout, stderr)  # type: ignore[arg-type] # as much of one as is looked at
        crew.processes.append(process)
        return process

    monkeypatch.setattr(Crew, "start", start)


def test_a_copied_key(looted: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    shows(looted, monkeypatch, owner=SIGNED, thief=REFUSED_BY_TPM, file=SIGNED)
    outcome = copied_key.run(looted)
    assert "another one does not" in outcome.happened
    told = {section.heading: dict(section.rows) for section in outcome.evidence}
    assert told["in the planner's own TPM"]["protection"] == "tpm: really"
    assert told["in another TPM, the one of the tools"]["refused"].endswith("it did not make it (0x1df)")


@pytest.mark.parametrize(
    ("who", "answer"),
    [
        ("owner", REFUSED_BY_TPM),
        ("owner", (0, "key  somewhere\n", "")),
        ("thief", SIGNED),
        ("thief", (1, "", "sidecar: the TPM is not there\n")),
        ("file", (2, "", "sidecar: no such file\n")),
    ],
)
def test_a_copied_key_that_behaves_otherwise(
    looted: Stage, monkeypatch: pytest.MonkeyPatch, who: str, answer: tuple[int, str, str]
) -> None:
    shows(looted, monkeypatch, **({"owner": SIGNED, "thief": REFUSED_BY_TPM, "file": SIGNED} | {who: answer}))
    with pytest.raises(UnexpectedError):
        copied_key.run(looted)
