"""Identities, configurations, and four processes: the tools, two sidecars, and an impostor.

The keys of both sidecars are made in a software TPM where there is one. The rogue and the impostor are programs without
a sidecar, which know keys in files alone.
"""

from __future__ import annotations

import shlex
import shutil
from functools import partial
from typing import TYPE_CHECKING, Final

from cryptography import x509

from sidecar.clock import Clock
from sidecar.demo import configs, software_tpm
from sidecar.demo.admin import identity, ready
from sidecar.demo.lines import find
from sidecar.demo.outcome import Outcome, Section, Step, UnexpectedError, expect
from sidecar.demo.ports import accepts
from sidecar.demo.stage import TRUST_DOMAIN
from sidecar.devcerts.generate import generate
from sidecar.devcerts.layout import CERTIFICATE, Order
from sidecar.identity.pins import Pin
from sidecar.keys.protection import Protection

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.demo.stage import Stage
    from sidecar.devcerts.identities import Identity

SIDECARS: Final = ("planner", "tools")
OTHERS: Final = ("rogue",)


def run(stage: Stage) -> Outcome:
    """Makes everything, starts everything at once, and waits until all of it is ready."""
    clock = Clock()
    started = clock.monotonic()
    commands = _in_tpm(stage) if stage.in_tpm else ()
    rogue = _issue(stage.certs, OTHERS if stage.in_tpm else (*SIDECARS, *OTHERS))[-1]
    forged = _forge(stage)
    pins = {agent: _pin(stage, agent) for agent in SIDECARS}
    stage.config("planner").write_text(configs.planner(stage.ports, pins["tools"], stage.key("planner")))
    stage.config("tools").write_text(configs.tools(stage.ports, pins["planner"], stage.key("tools")))
    _start(stage)
    _await(stage)
    told = tuple((agent, _told(stage, agent, pins[agent])) for agent in SIDECARS)
    seconds = clock.monotonic() - started
    return Outcome(
        f"all ready after {seconds:.1f} s",
        (
            _keys(stage, commands),
            Section("identities, as the sidecars tell them (/certs)", told),
            Section("programs without a sidecar", (("rogue", _described(rogue)), ("impostor", _described(forged)))),
            Section("processes", _processes(stage)),
        ),
    )


def _in_tpm(stage: Stage) -> tuple[tuple[str, str], ...]:
    """Has an identity made for each sidecar, with its key in its own TPM; returns the commands that did it."""
    commands = []
    for agent in SIDECARS:
        words = ("certs", "init", "certs", "--agent", agent, "--key", f"tpm:tcti={software_tpm.tcti(agent)}")
        made = stage.crew.finish(stage.crew.start(f"{agent}-certs", "sidecar", *words))
        if made.popen.returncode != 0:
            raise UnexpectedError(f"no key was made in the TPM of {agent}", made.tail())
        commands.append((agent, f"sidecar {shlex.join(words)}"))
    return tuple(commands)


def _issue(folder: Path, agents: tuple[str, ...]) -> tuple[Identity, ...]:
    return generate(Order.parse(folder, agents, trust_domain=TRUST_DOMAIN), Clock().wall()).identities


def _forge(stage: Stage) -> Identity:
    """The worst impostor: the authority itself gave it a certificate for the tools' SPIFFE ID, on its own key."""
    stage.stolen.mkdir(mode=0o700)
    for name in ("ca.crt", "ca.key"):
        shutil.copy(stage.certs / name, stage.stolen / name)  # with its mode
    return _issue(stage.stolen, ("tools",))[0]


def _pin(stage: Stage, agent: str) -> Pin:
    certificate = (stage.certs / agent / CERTIFICATE).read_bytes()
    return Pin.of_certificate(x509.load_pem_x509_certificate(certificate))


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


def _told(stage: Stage, agent: str, pin: Pin) -> str:
    """What a running sidecar says of itself: it has to be what was made for it."""
    told = identity(stage.socket(agent))
    protection = Protection.TPM if stage.in_tpm else Protection.SOFTWARE
    expect(told["pin"] == str(pin), f"the sidecar of {agent} has another key than was made", told)
    expect(told["key_protection"] == protection, f"the key of {agent} is not where it was made", told)
    what = f" ({software_tpm.WHAT})" if stage.in_tpm else ""
    return f"{told['identity']}\npin {told['pin']}\nkey_protection {told['key_protection']}{what}"


def _keys(stage: Stage, commands: tuple[tuple[str, str], ...]) -> Section:
    """Says where the keys are, or what to do to have them in a software TPM."""
    if stage.no_tpm is None:
        return Section(f"keys of both sidecars, in {software_tpm.WHAT}", commands)
    return Section("keys, in files; to see those of both sidecars in a software TPM", (("do", stage.no_tpm),))


def _described(identity: Identity) -> str:
    return f"{identity.id}, {identity.protection} key\npin {identity.pin}"


def _processes(stage: Stage) -> tuple[tuple[str, str], ...]:
    ports = stage.ports
    doing = {
        name: f"swtpm, a software TPM; its files are in {name}/"
        for name in map(software_tpm.name, SIDECARS)
        if name in stage.running
    } | {
        "tools": f"MCP server on 127.0.0.1:{ports.server}, plain HTTP",
        "tools-sidecar": f"sidecar run tools.yaml\nmutual TLS on 127.0.0.1:{ports.inbound}, lets the planner through alone\n"
        f"and on 127.0.0.1:{ports.shared}, lets through whoever has a token of its own",
        "planner-sidecar": f"sidecar run planner.yaml\nserves the planner on 127.0.0.1:{ports.outbound}, dials the tools alone\n"
        f"and on 127.0.0.1:{ports.to_shared}, the same with a token",
        "impostor": f"TLS server on 127.0.0.1:{ports.impostor}; chain and SPIFFE ID of the tools, another key",
    }
    return tuple((name, f"pid {stage.running[name].popen.pid}: {what}") for name, what in doing.items())


STEP: Final = Step(
    name="set-up",
    title="Identities, two configurations, and a sidecar beside each agent",
    sends="sidecar certs init for planner, tools and rogue, then two times sidecar run",
    expected="identities made, both sidecars ready",
    run=run,
)
