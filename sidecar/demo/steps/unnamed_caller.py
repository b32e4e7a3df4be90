"""A valid certificate is not enough: whom no rule names is denied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.demo.lines import await_line, rows
from sidecar.demo.outcome import Outcome, Section, Step, expect, fields
from sidecar.demo.stage import ROGUE

if TYPE_CHECKING:
    from sidecar.demo.stage import Stage


def run(stage: Stage) -> Outcome:
    """Calls as the rogue, then finds the denial in the log by the id that the rogue was given."""
    own = stage.certs / "rogue"
    report = stage.crew.ask(
        "rogue",
        "sidecar.demo.tls_caller",
        str(stage.ports.inbound),
        stage.certs / "ca.crt",
        own / "tls.crt",
        own / "tls.key",
    )
    expect(report.get("status") == 403, "the rogue was not denied", report)
    body = report["body"]
    expect(set(body) == {"error", "decision_id"} and body["error"] == "denied", "the denial says too much", body)
    line = await_line(stage.sidecar("tools"), stage.log("tools"), {"decision.id": body["decision_id"]})
    expect(line["decision"] == "deny" and line["src.identity"] == ROGUE, "the log tells it otherwise", line)
    return Outcome(
        f"403, {line['decision.reason']}",
        (
            Section(
                "the rogue's own program, over mutual TLS",
                (
                    ("handshake", f"{report['version']}, complete: the certificate is good"),
                    ("answer", f"403\n{fields(body)}"),
                ),
            ),
            Section(
                "access log of the tools' sidecar, found by that id",
                rows(line, "src.identity", "src.pin", "decision", "decision.reason", "decision.id", "policy.version"),
            ),
        ),
    )


STEP: Final = Step(
    name="unnamed caller",
    title="An agent with a valid certificate of the same authority, that nobody named",
    sends="GET /mcp by the rogue, straight to the tools' sidecar, with its own certificate",
    expected="403, and the reason in the log alone",
    run=run,
)
