"""Ourselves, as a user runs it: allow rule, access log, metrics, admin socket."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.certificates import CALLER, PEER, TRUST_DOMAIN, spiffe_prefix
from bench.peers.peer import Work
from bench.programs import first_line

if TYPE_CHECKING:
    from bench.keys.kind import OwnKey
    from bench.site import Running, Site
    from bench.tokens.kind import Tokens


@dataclass(frozen=True, slots=True)
class Sidecar:
    """``rules`` is the number of allow rules, of which the last one matches; ``limits`` goes into the file as it is.

    ``own`` is the key of the accepting side, where it is another than the file that everybody has; ``tokens`` are what
    requests go with. ``workers`` is the number of each side's; more than one are not held to one core.
    """

    rules: int = 1
    access_log: str | None = None
    limits: tuple[tuple[str, int | str], ...] = ()
    own: OwnKey | None = None
    tokens: Tokens | None = None
    workers: int = 1
    name: str = "sidecar"

    def missing(self, work: Work) -> str | None:  # noqa: ARG002 - it is always there
        """Nothing: the benchmark runs from a clone."""
        return None

    def version(self) -> str:
        """As in ``sidecar 0.1.0``."""
        return first_line(sys.executable, "-m", "sidecar", "--version")

    def inbound(self, site: Site, work: Work, upstream: int) -> Running:
        """The agent that is called."""
        port = site.crew.port()
        entry: dict[str, Any] = {
            "name": "tools",
            "listen": f"127.0.0.1:{port}",
            "forward": f"{work.value}://127.0.0.1:{upstream}",
            "allow": rules(self.rules, work),
        }
        if self.tokens is None:
            return self._start(site, port, PEER, {"inbound": [entry]})
        for rule in entry["allow"]:
            rule["token"] = self.tokens.requirement
        return self._start(site, port, PEER, {"inbound": [entry], "issuers": self.tokens.issuers})

    def outbound(self, site: Site, work: Work, inbound: int) -> Running:
        """The agent that calls."""
        port = site.crew.port()
        entry = {
            "name": "tools",
            "listen": f"127.0.0.1:{port}",
            "connect": f"127.0.0.1:{inbound}",
            "peer": f"{spiffe_prefix(PEER)}*",
            "protocol": work.value,
        }
        if self.tokens is None:
            return self._start(site, port, CALLER, {"outbound": [entry]})
        entry["token"] = self.tokens.source["name"]
        return self._start(site, port, CALLER, {"outbound": [entry], "tokens": [self.tokens.source]})

    def _start(self, site: Site, port: int, name: str, entries: dict[str, Any]) -> Running:
        files = site.certificates
        own = self.own if name == PEER else None
        config = {
            "version": 1,
            "identity": {
                "certificate": str(own.certificate if own else files.certificate(name)),
                "key": own.place if own else str(files.key(name)),
                "trust": {TRUST_DOMAIN: str(files.authority)},
            },
            "admin": {"listen": f"unix:{site.crew.path('admin.sock')}"},
            "access_log": self.access_log or str(site.crew.path("sidecar-access.log")),
            "workers": self.workers,
            "limits": {"idle_timeout": "10m"} | dict(self.limits),
        }
        file = site.file("sidecar.yaml", json.dumps(config | entries, indent=1))
        # env(1) becomes the program: its process id is ours.
        environment = ["env", *(f"{variable}={value}" for variable, value in own.environment)] if own else []
        start = site.proxy if self.workers == 1 else site.spread
        return start("sidecar", port, *environment, sys.executable, "-m", "sidecar", "run", file)


def rules(count: int, work: Work) -> list[dict[str, Any]]:
    """Returns that many allow rules, of which the last allows: half of the others name other callers, half other paths."""
    others: list[dict[str, Any]] = []
    for number in range(count - 1):
        if number % 2 or work is Work.TCP:
            others.append({"caller": f"{spiffe_prefix(f'stranger-{number}')}*"})
        else:
            others.append({"caller": f"{spiffe_prefix(CALLER)}*", "paths": [f"/elsewhere/{number}/**"]})
    return [*others, {"caller": f"{spiffe_prefix(CALLER)}*"}]
