"""A good chain and the right name are not enough: whose key is not pinned never gets to see our certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.demo import plain
from sidecar.demo.lines import Line, await_line, lines, rows
from sidecar.demo.outcome import Outcome, Section, Step, expect, fields
from sidecar.demo.stage import TOOLS_HOST

if TYPE_CHECKING:
    from sidecar.demo.stage import Stage


def run(stage: Stage) -> Outcome:
    """Asks through the entry whose address leads to the impostor, then hears what the impostor saw."""
    answer = plain.get(stage.ports.hijacked, "/mcp", TOOLS_HOST)
    expect(answer.status == 502, "the impostor was not refused", answer)
    line = await_line(stage.sidecar("planner"), stage.log("planner"), {"decision.id": answer.body.get("decision_id")})
    impostor = stage.running["impostor"]
    seen = await_line(impostor, impostor.stdout, {"event": "visitor"})
    for visit in (line for line in lines(impostor.stdout) if line["event"] == "visitor"):
        _check(visit)
    expect(line["error"] == "peer_pin_mismatch", "it was refused for another reason than its key", line)
    return Outcome(
        f"502, {line['error']}; it saw no certificate",
        (
            Section(
                "the planner's side",
                (
                    ("answer", f"{answer.status}\n{fields(answer.body)}"),
                    *rows(line, "listener", "dst.addr", "error", "decision.id"),
                ),
            ),
            Section(
                "what the impostor counted",
                (
                    ("received", f"{seen['hello']} bytes: a ClientHello, which names nobody"),
                    ("sent", f"{seen['answered']} bytes: its certificate, and the request for ours"),
                    ("received then", f"{seen['after_answer']} bytes; the handshake never ended"),
                ),
            ),
        ),
    )


def _check(visit: Line) -> None:
    """Accepts a visit in which the impostor showed its certificate and saw nothing in return."""
    expect(visit["answered"], "the impostor's certificate did not go out", visit)
    expect(not visit["finished"] and visit["certificate"] is None, "the impostor saw our certificate", visit)
    expect(visit["after_answer"] == 0, "the impostor got an answer to its certificate", visit)


STEP: Final = Step(
    name="impostor",
    title="An impostor at the tools' address: good chain, right SPIFFE ID, wrong key",
    sends=f"GET http://{TOOLS_HOST}/mcp by the planner; its sidecar's connection ends at the impostor",
    expected="refused before it saw our certificate",
    run=run,
)
