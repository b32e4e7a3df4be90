"""What the backend is told about its caller comes from the handshake, whatever the agent writes into its request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.demo import plain
from sidecar.demo.outcome import Outcome, Section, Step, expect, parts
from sidecar.demo.stage import PLANNER, TOOLS, TOOLS_HOST, agent_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.demo.stage import Stage

ADMIN: Final = agent_id("admin")

SPOOFED: Final = (
    ("x-sidecar-caller", ADMIN),
    ("X_Sidecar_Caller", ADMIN),
    ("X-Forwarded-Client-Cert", f"By={TOOLS};URI={ADMIN}"),
    ("x_forwarded_client_cert", f"By={TOOLS};URI={ADMIN}"),
)

_IDENTITY: Final = ("x-sidecar-caller", "x-forwarded-client-cert")


def run(stage: Stage) -> Outcome:
    """Sends the spoofed fields with the planner's request and looks at what the tools' server received."""
    answer = plain.get(stage.ports.outbound, "/headers", TOOLS_HOST, SPOOFED)
    expect(answer.status == 200, f"status {answer.status}", answer.body)
    arrived = [(name, value) for name, value in answer.body if name.lower().replace("_", "-") in _IDENTITY]
    expect(ADMIN not in str(answer.body), "a spoofed identity reached the server", arrived)
    expect(
        sorted(name for name, _ in arrived) == sorted(_IDENTITY), "the server saw other fields than the two", arrived
    )
    found = dict(arrived)
    expect(found["x-sidecar-caller"] == PLANNER, "the server was told another caller", found)
    expect(f"URI={PLANNER}" in found["x-forwarded-client-cert"].split(";"), "the server was told another URI", found)
    return Outcome(
        f"{len(SPOOFED)} removed; it sees the planner",
        (
            Section("what the planner wrote into its request", _readable(SPOOFED)),
            Section("what the tools' server received of these names, from the handshake", _readable(arrived)),
        ),
    )


def _readable(fields: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, parts(value)) for name, value in fields)


STEP: Final = Step(
    name="spoofed identity",
    title="The planner claims to be somebody else",
    sends="GET /headers by the planner, with identity headers of its own making",
    expected="removed; one identity, from the handshake",
    run=run,
)
