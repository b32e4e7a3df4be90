"""The planner, which the tools' sidecar names, speaks MCP with the tools through both sidecars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.demo.lines import await_line, rows
from sidecar.demo.outcome import Outcome, Section, Step, expect, parts
from sidecar.demo.ports import HOST
from sidecar.demo.stage import PLANNER, TOOLS, TOOLS_HOST

if TYPE_CHECKING:
    from sidecar.demo.stage import Stage

_FIELDS: Final = (
    "src.identity",
    "dst.identity",
    "http.method",
    "http.path",
    "http.status",
    "decision.rule",
    "trace.id",
)


def run(stage: Stage) -> Outcome:
    """Runs the planner, then finds one of its calls in the logs of both sidecars."""
    proxy = f"http://{HOST}:{stage.ports.outbound}"
    report = stage.crew.ask("planner", "sidecar.demo.planner", extra={"HTTP_PROXY": proxy})
    expect(report["tools"] == ["add", "who_calls"] and report["sum"] == 5, "the MCP session went wrong", report)
    expect(report["progress"] == [1, 2], "progress notes were lost on the way", report)
    seen = report["seen"] or {}
    expect(seen.get("x-sidecar-caller") == PLANNER, "the tools were told another caller", seen)
    expect(seen.get("host") == TOOLS_HOST, "the Host did not arrive as it was sent", seen)
    call = {"http.method": "POST", "http.path": "/mcp", "http.status": 200, "decision": "allow"}
    outbound = await_line(stage.sidecar("planner"), stage.log("planner"), call | {"dst.identity": TOOLS})
    inbound = await_line(
        stage.sidecar("tools"),
        stage.log("tools"),
        call | {"src.identity": PLANNER, "trace.id": outbound["trace.id"]},
    )
    return Outcome(
        "answered; each side proved the other",
        (
            Section(
                "MCP session",
                (
                    ("HTTP_PROXY", f"{proxy}: all that the agent was told"),
                    ("initialize", f"{report['server']}, protocol {report['protocol']}"),
                    ("tools/list", ", ".join(report["tools"])),
                    ("tools/call", f"add(2, 3) = {report['sum']}; who_calls() sent 2 progress events over SSE"),
                ),
            ),
            Section("what the tools saw of the request", tuple((name, parts(value)) for name, value in seen.items())),
            Section("access log of the planner's sidecar: proved the tools", rows(outbound, *_FIELDS)),
            Section("access log of the tools' sidecar: proved the planner", rows(inbound, *_FIELDS)),
        ),
    )


STEP: Final = Step(
    name="named caller",
    title="MCP between the planner and the tools, through both sidecars",
    sends=f"initialize, tools/list and tools/call to http://{TOOLS_HOST}/mcp by an MCP client",
    expected="answered, both identities proven",
    run=run,
)
