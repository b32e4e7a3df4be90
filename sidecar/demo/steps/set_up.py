"""Identities, configurations, and five processes: two agents, their sidecars, and an impostor."""

from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING, Final

from sidecar.clock import Clock
from sidecar.demo import configs
from sidecar.demo.admin import ready
from sidecar.demo.lines import find
from sidecar.demo.outcome import Outcome, Section, Step
from sidecar.demo.ports import accepts
from sidecar.demo.stage import TRUST_DOMAIN
from sidecar.devcerts.generate import generate
from sidecar.devcerts.layout import Order

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.demo.stage import Stage
    from sidecar.devcerts.identities import Identity

AGENTS: Final = ("planner", "tools", "rogue")


def run(stage: Stage) -> Outcome:
    """Makes everything, starts everything at once, and waits until all of it is ready."""
    clock = Clock()
    started = clock.monotonic()
    identities = {one.id.segments[1]: one for one in _issue(stage.certs, AGENTS)}
    forged = _forge(stage)
    stage.config("planner").write_text(configs.planner(stage.ports, identities["tools"].pin))
    stage.config("tools").write_text(configs.tools(stage.ports, identities["planner"].pin))
    _start(stage)
    _await(stage)
    seconds = clock.monotonic() - started
    return Outcome(
        f"all ready after {seconds:.1f} s",
        (
            Section("identities", tuple((name, _described(one)) for name, one in identities.items())),
            Section("the impostor's certificate: same authority, same SPIFFE ID", (("impostor", _described(forged)),)),
            Section("processes", _processes(stage)),
        ),
    )


def _issue(folder: Path, agents: tuple[str, ...]) -> tuple[Identity, ...]:
    return generate(Order.parse(folder, agents, trust_domain=TRUST_DOMAIN), Clock().wall()).identities


def _forge(stage: Stage) -> Identity:
    """The worst impostor: the authority itself gave it a certificate for the tools' SPIFFE ID, on its own key."""
    stage.stolen.mkdir(mode=0o700)
    for name in ("ca.crt", "ca.key"):
        shutil.copy(stage.certs / name, stage.stolen / name)  # with its mode
    return _issue(stage.stolen, ("tools",))[0]


def _start(stage: Stage) -> None:
    ports, crew, running = stage.ports, stage.crew, stage.running
    running["tools"] = crew.start("tools", "sidecar.demo.tools_server", str(ports.server))
    for agent in ("tools", "planner"):
        running[f"{agent}-sidecar"] = crew.start(f"{agent}-sidecar", "sidecar", "run", stage.config(agent))
    forged = stage.stolen / "tools"
    running["impostor"] = crew.start(
        "impostor",
        "sidecar.demo.impostor",
        str(ports.impostor),
        forged / "tls.crt",
        forged / "tls.key",
        stage.certs / "ca.crt",
    )


def _await(stage: Stage) -> None:
    for agent in ("tools", "planner"):
        stage.sidecar(agent).until(partial(ready, stage.socket(agent)), "ready")
    impostor = stage.running["impostor"]
    impostor.until(lambda: find(impostor.stdout, {"event": "listening"}) is not None, "ready")
    stage.running["tools"].until(lambda: accepts(stage.ports.server), "ready")


def _described(identity: Identity) -> str:
    return f"{identity.id}, {identity.protection} key\npin {identity.pin}"


def _processes(stage: Stage) -> tuple[tuple[str, str], ...]:
    ports = stage.ports
    doing = {
        "tools": f"MCP server on 127.0.0.1:{ports.server}, plain HTTP",
        "tools-sidecar": f"sidecar run tools.yaml\nmutual TLS on 127.0.0.1:{ports.inbound}, lets the planner through alone",
        "planner-sidecar": f"sidecar run planner.yaml\nserves the planner on 127.0.0.1:{ports.outbound}, dials the tools alone",
        "impostor": f"TLS server on 127.0.0.1:{ports.impostor}",
    }
    return tuple((name, f"pid {stage.running[name].popen.pid}: {what}") for name, what in doing.items())


STEP: Final = Step(
    name="set-up",
    title="Identities, two configurations, and a sidecar beside each agent",
    sends="sidecar certs init certs --agent planner --agent tools --agent rogue, then two times sidecar run",
    expected="identities made, both sidecars ready",
    run=run,
)
