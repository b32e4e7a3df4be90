"""A running `sidecar exec`, whose agent is a Python program that the test talks to over its standard streams."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.processes import COMMAND

if TYPE_CHECKING:
    from tests.support.processes import Sidecar, Site

TIMEOUT = 60


class Execution:
    """Started at once; ended, whatever happens, with the site."""

    def __init__(self, site: Site, sidecar: Sidecar, code: str, *options: str, wrapper: tuple[str, ...] = ()) -> None:
        sidecar.write()
        self.errors = site.path("exec.err")
        command = [*wrapper, *COMMAND, "exec", *options, sidecar.file.name, "--", sys.executable, "-c", code]
        with self.errors.open("wb") as err:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": err, "text": True}
            self.process = site.process(*command, **pipes)

    def line(self) -> str:
        """The next line that the agent prints; empty at the end."""
        return str(self.process.stdout.readline()).rstrip("\n")  # type: ignore[union-attr]  # it is a pipe

    def tell(self, text: str) -> None:
        """Gives the agent a line to read."""
        self.process.stdin.write(f"{text}\n")  # type: ignore[union-attr]  # it is a pipe
        self.process.stdin.flush()  # type: ignore[union-attr]

    def ask(self, text: str) -> str:
        """Gives the agent a line and returns the next one that it prints."""
        self.tell(text)
        return self.line()

    def end(self) -> int:
        """Waits for the end."""
        return self.process.wait(TIMEOUT)

    @property
    def stderr(self) -> str:
        return self.errors.read_text()

    @property
    def proxy(self) -> int:
        """The process id of the proxy, a child of the supervisor as the agent is."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (found,) = [int(pid) for pid in children if b"\0run\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return found
