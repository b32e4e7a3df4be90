"""The MCP conformance suite, in a folder, installed nowhere; and what it says of a server.

``python -m tests.support.conformance`` prepares the folder, once, with the Node.js of `tests.support.oauth_server`.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import oauth_server
from tests.support.npm import Made, install_packages, say

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".mcp-conformance"
SOURCES = Path(__file__).parent / "mcp_conformance"

_PROGRAM = FOLDER / "node_modules/@modelcontextprotocol/conformance/dist/index.js"
_TIME = re.compile(r"-\d{4}-\d\d-\d\dT.*")
#: The whole suite takes some seconds against a server that answers at once.
SECONDS = 100


def prepare() -> None:
    """Makes the folder, unless it is there and made of the same things."""
    oauth_server.prepare()
    if Made(FOLDER, SOURCES, ("package.json", "package-lock.json")).prepare(_install):
        say(f"{FOLDER.name}: ready")


def _install(new: Path) -> None:
    say("installing the MCP conformance suite")
    install_packages(new, oauth_server.NODE)


def score(url: str, folder: Path) -> Mapping[str, tuple[str, ...]]:
    """Plays all scenarios against a server; returns the checks of each with their verdicts, ``SUCCESS``, ``FAILURE`` and so on.

    What the suite only notes on its way (``INFO``) is left out. ``folder`` takes what it writes. Raises where it did not
    come to its end.
    """
    command = [str(oauth_server.NODE), str(_PROGRAM), "server", "--url", url, "--suite", "all", "-o", str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=SECONDS)
    assert "=== SUMMARY ===" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    found = {}
    for report in folder.glob("*/checks.json"):
        # The folder of a scenario is named by it and the time.
        name = _TIME.sub("", report.parent.name).removeprefix("server-")
        checks = json.loads(report.read_text())
        found[name] = tuple(f"{each['id']}: {each['status']}" for each in checks if each["status"] != "INFO")
    return found


if __name__ == "__main__":
    prepare()
