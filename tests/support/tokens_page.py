"""docs/tokens.md, and somebody who follows it in the folder of a site, with the two configurations of its first part.

follower = Follower(site)
follower.make_identities()
follower.write(tools=rules)     # in place of the same sections of tools.yaml
follower.start()
follower.follow("curl http://127.0.0.1:14001/hello")
assert "200" in follower.of("/hello")
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tests.support.eventually import eventually
from tests.support.page import blocks_of
from tests.support.processes import free_port, listens
from tests.support.shell import Shell

if TYPE_CHECKING:
    from tests.support.processes import Site

PAGE = (Path(__file__).parents[2] / "docs/tokens.md").read_text(encoding="utf-8")
BLOCKS = blocks_of(PAGE)
#: The section with both configurations, the agent that is called, and the commands that start all of it.
FIRST = "In five minutes"
_PORTS = ("8443", "14001", "8080")
_PYTHON = shlex.quote(sys.executable)


def texts(language: str, section: str) -> list[str]:
    """The blocks of a section that are of that kind."""
    return [block.text for block in BLOCKS if (block.language, block.section) == (language, section)]


def commands_of(section: str) -> list[str]:
    """All commands of a section, those too that cannot be run."""
    return [line for block in BLOCKS if block.section == section and block.language == "sh" for line in block.commands]


class Follower:
    """See above. ``exchanged``: words of the page, and what they have to be here; ``printed``: what commands printed."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.exchanged = {port: str(free_port()) for port in _PORTS}
        site.path(".curlrc").write_text("silent\nshow-error\n")
        self.shell = Shell(site.folder, {"CURL_HOME": str(site.folder)})
        site.owns(self.shell.__exit__)
        self.printed: dict[str, str] = {}
        planner, tools = texts("yaml", FIRST)
        self.configurations = {"planner": planner, "tools": tools}
        self.write()
        site.path("tools.py").write_text(self.here(texts("python", FIRST)[0]))

    def here(self, text: str) -> str:
        """The page's words as they have to be on this machine."""
        for old, new in self.exchanged.items():
            text = re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", new, text)
        programs = {"sidecar": f"{_PYTHON} -m sidecar", "python": _PYTHON}
        return re.sub(r"\.venv/bin/(sidecar|python)\b", lambda match: programs[match[1]], text)

    def write(self, **instead: str) -> None:
        """Writes both configurations; ``instead``: the sections of one that replace those of the first part of the page."""
        for name, text in self.configurations.items():
            whole = yaml.safe_load(text) | yaml.safe_load(instead.get(name, "{}"))
            self.site.path(f"{name}.yaml").write_text(self.here(yaml.safe_dump(whole, width=1000)))

    def follow(self, *commands: str) -> None:
        """Runs commands in order, those with ``&`` in the background; each has to succeed."""
        for each in commands:
            line = self.here(each)
            if each.endswith("&"):
                self.shell.start(line.removesuffix("&").strip(), self._answers if "tools.py" in each else None)
                continue
            if each.startswith("grep"):
                self._await_line(line)
            self.printed[each] = self.shell.run(line)

    def _answers(self) -> bool:
        return listens(int(self.exchanged["8080"]))

    def _await_line(self, line: str) -> None:
        """The log is written a moment after the answer."""
        words = shlex.split(line)
        run = subprocess.run
        eventually(lambda: run(words, cwd=self.site.folder, capture_output=True, check=False).returncode == 0, line)

    def follow_section(self, section: str) -> None:
        self.follow(*commands_of(section))

    def of(self, word: str) -> str:
        """What the one command with that word printed."""
        (found,) = [output for line, output in self.printed.items() if word in line]
        return found

    def make_identities(self) -> None:
        """As the page begins; once, since each time they get other certificates."""
        self.follow(commands_of(FIRST)[0])

    def start(self) -> None:
        """Starts all three."""
        self.follow(*[line for line in commands_of(FIRST) if line.endswith("&")])
