"""What tests use of Node.js: packages pinned by a lock file, in a folder of their own beside the code, installed nowhere."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Made:
    """A folder that is made of lists: ``sources`` holds them, ``lists`` are their names."""

    folder: Path
    sources: Path
    lists: tuple[str, ...]

    def prepare(self, install: Callable[[Path], None]) -> bool:
        """Makes the folder with ``install``, unless it is there and made of the same things; says whether it was made."""
        stamp = hashlib.sha256(b"".join((self.sources / name).read_bytes() for name in self.lists)).hexdigest()
        made_of = self.folder / "made-of"
        if made_of.exists() and made_of.read_text() == stamp:
            say(f"{self.folder.name}: up to date")
            return False
        new = self.folder.with_name(f"{self.folder.name}.new")
        for folder in (self.folder, new):
            shutil.rmtree(folder, ignore_errors=True)
        try:
            new.mkdir()
            for name in self.lists:
                shutil.copy(self.sources / name, new)
            install(new)
            (new / "made-of").write_text(stamp)
            new.rename(self.folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        return True


def install_packages(folder: Path, node: Path) -> None:
    """Installs what ``package-lock.json`` pins, with the npm that belongs to a Node.js; no package's own script runs."""
    npm = node.parents[1] / "lib/node_modules/npm/bin/npm-cli.js"
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    run(folder, str(node), str(npm), "ci", *quiet)


def run(folder: Path, *command: str) -> str:
    """Returns what a command prints; ends this program where it fails."""
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout


def say(line: str) -> None:
    """Tells whoever waits."""
    print(line, flush=True)  # noqa: T201 - for commands
