"""Configurations for tests: a folder with an identity in it, a file that is fine, and what is wrong with its variants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.config.faults import Fault, InvalidConfiguration
from sidecar.config.load import Loaded, load
from tests.support.ca import NOW, Ca
from tests.support.schema import complaints

if TYPE_CHECKING:
    from pathlib import Path

PIN = "sha256:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg="
OTHER_PIN = "sha256:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="

#: Each line stands once, so that a test can replace it by its text.
VALID = f"""\
version: 1
identity:
  certificate: planner.crt
  key: planner.key
  trust:
    example.org: ca.crt
inbound:
  - name: in
    listen: 127.0.0.1:8443
    forward: http://127.0.0.1:8080
    allow:
      - caller: spiffe://example.org/agent/planner/*
        pins: ["{PIN}"]
        methods: [GET, POST]
        paths: [/mcp, /tools/**]
outbound:
  - name: out
    listen: 127.0.0.1:14001
    hosts: [tools.internal]
    connect: tools.example.org:8443
    peer: spiffe://example.org/agent/tools/*
admin:
  listen: unix:admin.sock
health:
  listen: 127.0.0.1:14021
drain_timeout: 30s
limits:
  connections: 4096
"""


class Workspace:
    """A folder with ca.crt, planner.crt and planner.key, valid at ``now``."""

    def __init__(self, folder: Path, now: float = NOW) -> None:
        self.folder = folder
        self.now = now
        self.ca = Ca(now=now)
        (folder / "ca.crt").write_bytes(self.ca.pem)
        self.identity = self.ca.leaf()
        self.identity.write(folder, "planner")

    def write(self, text: str | bytes = VALID, name: str = "planner.yaml") -> Path:
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def load(self, text: str | bytes = VALID) -> Loaded:
        loaded = load(self.write(text), now=self.now, environ={})
        assert complaints(text) == []  # what is fine is fine by the JSON Schema too
        return loaded

    def faults(self, text: str | bytes = VALID) -> tuple[Fault, ...]:
        """Every fault of a file, which must have one."""
        with pytest.raises(InvalidConfiguration) as caught:
            self.load(text)
        return caught.value.faults

    def fault(self, text: str | bytes = VALID) -> Fault:
        """The one fault of a file."""
        faults = self.faults(text)
        assert len(faults) == 1, "\n".join(map(str, faults))
        return faults[0]


def edit(old: str, new: str, text: str = VALID) -> str:
    """Returns a file with one piece, which stands in it exactly once, replaced."""
    assert text.count(old) == 1, f"{text.count(old)} times in the file: {old!r}"
    return text.replace(old, new)


def line_of(text: str, piece: str) -> int:
    """Returns the number of the line with that piece, which stands in it exactly once."""
    assert text.count(piece) == 1, f"{text.count(piece)} times in the file: {piece!r}"
    return text[: text.index(piece)].count("\n") + 1
