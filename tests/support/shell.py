"""A shell that follows the commands of a page, one after the other, as a reader would.

with Shell(folder, environ) as shell:
    shell.start("sidecar run planner.yaml")
    print(shell.run("curl http://127.0.0.1:14001/"))
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.support.eventually import eventually
from tests.support.processes import UnixConnection, ask

if TYPE_CHECKING:
    from collections.abc import Callable

_ROOT = Path(__file__).parents[2]


class Shell:
    """One shell for the commands of a section, and an end to whatever they left running."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self._count = 0
        self._process = subprocess.Popen(
            ["sh"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(_ROOT)} | environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # The shell and all that it started: the group is ours, and nobody else's.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def run(self, command: str) -> str:
        """Runs a command to its end and returns what it printed; it has to succeed."""
        self._count += 1
        end = f"--- {self._count} ended with "
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\nprintf '\\n%s%s\\n' '{end}' $?\n")
        self._process.stdin.flush()
        printed: list[str] = []
        for line in self._process.stdout:
            if line.startswith(end):
                assert line.removeprefix(end) == "0\n", (command, "".join(printed))
                return "".join(printed)
            printed.append(line)
        raise AssertionError(f"the shell ended: {command}: {''.join(printed)}")

    def start(self, command: str, ready: Callable[[], bool] | None = None) -> None:
        """Runs a command in the background and returns when it serves; ``ready`` says so where the command does not."""
        self.run(f"{command} >background-{self._count} 2>&1 &")
        if ready is not None:
            eventually(ready, command)
            return
        place = re.search(r"--listen unix:(\S+)|--ctrl type=unixio,path=(\S+)|run (\S+)\.yaml", command)
        assert place is not None, f"how is it seen that this is ready? {command}"
        path = self.folder / (place[1] or place[2] or f"{place[3]}.sock")
        serves = self._ready if place[3] else Path.is_socket
        eventually(lambda: serves(path), command)

    @staticmethod
    def _ready(path: Path) -> bool:
        with suppress(OSError, http.client.HTTPException), closing(UnixConnection(path)) as connection:
            return ask(connection, "GET", "/ready").status == 200
        return False
