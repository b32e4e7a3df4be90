"""Without a certificate there is no connection, hence no request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.demo.lines import await_line, rows
from sidecar.demo.outcome import Outcome, Section, Step, expect

if TYPE_CHECKING:
    from sidecar.demo.stage import Stage

#: OpenSSL's name of the alert certificate_required (RFC 8446 6.2, number 116).
_ALERT: Final = "TLSV13_ALERT_CERTIFICATE_REQUIRED"


def run(stage: Stage) -> Outcome:
    """Calls without a certificate, then finds the refusal in the log by the caller's address."""
    report = stage.crew.ask("stranger", "sidecar.demo.tls_caller", str(stage.ports.inbound), stage.certs / "ca.crt")
    expect("status" not in report, "the stranger was answered", report)
    expect(report.get("alert") == _ALERT, "the stranger was not told why", report)
    line = await_line(stage.sidecar("tools"), stage.log("tools"), {"event": "refused", "src.addr": report["addr"]})
    return Outcome(
        "closed, alert certificate_required",
        (
            Section("the stranger", (("TLS alert", "certificate_required"), ("answer", "none"))),
            Section(
                "access log of the tools' sidecar, found by its address",
                rows(line, "event", "src.addr", "decision", "decision.reason"),
            ),
        ),
    )


STEP: Final = Step(
    name="no certificate",
    title="A caller without a certificate",
    sends="GET /mcp over TLS 1.3 to the tools' sidecar, without a client certificate",
    expected="closed with a TLS alert",
    run=run,
)
