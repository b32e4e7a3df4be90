"""Where the demo plays: a folder, ports, and the parts that are in every step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sidecar.demo import software_tpm

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.demo.processes import Crew, Process

TRUST_DOMAIN: Final = "example.org"
TOOLS_HOST: Final = "tools.internal"
"""What the planner calls the tools: no DNS knows it."""
AUDIENCE: Final = f"https://{TOOLS_HOST}"
"""Whom the planner's tokens are for."""
LEAK: Final = "/leak"
"""Where the tools' server gives away the last token it got, to whoever is on its machine."""


def agent_id(name: str) -> str:
    """The SPIFFE ID of an agent of the demo."""
    return f"spiffe://{TRUST_DOMAIN}/agent/{name}/1"


PLANNER: Final = agent_id("planner")
TOOLS: Final = agent_id("tools")
ROGUE: Final = agent_id("rogue")
ANY_AGENT: Final = f"spiffe://{TRUST_DOMAIN}/agent/**"
"""As a rule names all of them."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Loopback ports: the tools' MCP server, the two sidecars' listeners, and the impostor.

    Two pairs of listeners lead from the planner to the tools: ``outbound`` to ``inbound``, where the planner alone is
    named, and ``to_shared`` to ``shared``, where every agent is that has a token of its own.
    """

    server: int
    inbound: int
    outbound: int
    hijacked: int
    impostor: int
    to_shared: int
    shared: int


@dataclass(frozen=True, slots=True)
class Stage:
    """One demo. Everything lies in ``folder``; ``crew`` ends what was started.

    ``no_tpm`` says what to do to see keys in a software TPM; None where the sidecars have theirs in one.
    """

    folder: Path
    ports: Ports
    crew: Crew
    running: dict[str, Process] = field(default_factory=dict)
    no_tpm: str | None = "not looked for"

    @property
    def in_tpm(self) -> bool:
        """Whether the sidecars have their keys in a software TPM."""
        return self.no_tpm is None

    @property
    def certs(self) -> Path:
        """What `sidecar certs init` filled."""
        return self.folder / "certs"

    @property
    def stolen(self) -> Path:
        """The impostor's certificates: the same authority, other keys."""
        return self.folder / "impostor"

    def config(self, agent: str) -> Path:
        """The configuration of an agent's sidecar."""
        return self.folder / f"{agent}.yaml"

    def log(self, agent: str) -> Path:
        """The access log of an agent's sidecar."""
        return self.folder / f"{agent}.log"

    def socket(self, agent: str) -> Path:
        """The admin socket of an agent's sidecar."""
        return self.folder / f"{agent}.sock"

    def key(self, agent: str) -> str:
        """What `identity.key` says in the configuration of an agent's sidecar."""
        return software_tpm.key(agent) if self.in_tpm else f"certs/{agent}/tls.key"

    def sidecar(self, agent: str) -> Process:
        """The process of an agent's sidecar."""
        return self.running[f"{agent}-sidecar"]
