"""A newer OpenSSL than the machine's, with a Python that uses it: Debian 13's, unpacked into a folder, installed nowhere.

``python -m tests.support.newer_openssl`` prepares the folder, once. Debian's packages come from the machine's own mirror,
Python's as requirements.lock pins them. This interpreter needs the C library that it was built with, so a script beside
it, which passes for the interpreter, starts it through its own loader.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".openssl-newer"
#: The interpreter, once it is there.
PYTHON = FOLDER / "usr/bin/python"

SUITE, VERSION = "trixie", "3.13"
#: What the tests that run there import, with all that these need: requirements.lock has each.
MODULES = frozenset(
    {
        *("cffi", "cryptography", "pycparser", "pyopenssl", "typing-extensions"),
        *("hypothesis", "iniconfig", "packaging", "pluggy", "pygments", "sortedcontainers"),
        *("pytest", "pytest-asyncio", "pytest-timeout"),
    }
)
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_SCRIPT = """\
#!/bin/sh
# Passes for the interpreter: a process that it starts by sys.executable comes through here as well.
here=$(dirname "$(readlink -f "$0")")
for loader in "$here"/../lib/*-linux-gnu/ld-linux-*.so.*; do
    exec "$loader" --argv0 "$here/python" --library-path "${loader%/*}" "$here/python@VERSION@" "$@"
done
"""


def prepare() -> None:
    """Makes the folder, unless it is there and made of the same things."""
    lock = pinned((ROOT / "requirements.lock").read_text())
    stamp = hashlib.sha256(f"{SUITE} {VERSION} {_SCRIPT} {lock}".encode()).hexdigest()
    made_of = FOLDER / "made-of"
    if made_of.exists() and made_of.read_text() == stamp:
        _say(f"{FOLDER.name}: up to date")
        return
    new, work = (FOLDER.with_name(f"{FOLDER.name}.{part}") for part in ("new", "work"))
    for folder in (FOLDER, new, work):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        _unpack(work, new)
        _install(lock, work, new)
        (new / "made-of").write_text(stamp)
        new.rename(FOLDER)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(new, ignore_errors=True)
    _say(f"{FOLDER.name}: {version()}")


def version() -> str:
    """What the interpreter's ssl module says of its OpenSSL."""
    asked = [PYTHON, "-c", "import ssl; print(ssl.OPENSSL_VERSION)"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()


def sources(targets: str, codename: str) -> str:
    """The mirrors that apt uses for this Debian, for the other one: ``targets`` is "address release component" a line."""
    lines = dict.fromkeys(
        f"deb [signed-by={_KEYRING}] {address} {SUITE}{release.removeprefix(codename)} {component}"
        for address, release, component in (line.split() for line in targets.splitlines())
        if release in {codename, f"{codename}-updates", f"{codename}-security"} and component == "main"
    )
    return "".join(f"{line}\n" for line in lines)


def pinned(lock: str) -> str:
    """The part of requirements.lock that pins `MODULES`, with their hashes."""
    entries = {entry[1]: entry[0] for entry in re.finditer(r"^(\S+?)==.*\n(?: .*\n)*", lock, re.MULTILINE)}
    return "".join(entries[name] for name in sorted(MODULES))


def _unpack(work: Path, new: Path) -> None:
    system = platform.freedesktop_os_release()
    if system["ID"] != "debian":
        raise SystemExit("it is made of Debian's packages, and this is no Debian")
    form = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    targets = _run("apt-get", "indextargets", "--no-release-info", "--format", form, "Created-By: Packages")
    for folder in ("lists/partial", "archives/partial", "parts"):
        (work / folder).mkdir(parents=True)
    (work / "status").touch()
    (work / "sources.list").write_text(sources(targets, system["VERSION_CODENAME"]))
    where = {
        "Dir::State": work,
        "Dir::State::status": work / "status",  # nothing is installed: so all that is needed is fetched
        "Dir::Cache": work,
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": work / "parts",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in where.items())]
    if os.getuid() == 0:
        apt.append("-oAPT::Sandbox::User=root")  # nobody else can look into this folder
    _say(f"fetching Python {VERSION} of Debian's {SUITE}")
    _run(*apt, "update")
    _run(*apt, "install", "--download-only", "--yes", "--no-install-recommends", f"python{VERSION}")
    packages = sorted((work / "archives").glob("*.deb"))
    _say(f"unpacking {len(packages)} packages")
    for package in packages:
        _run("dpkg-deb", "--extract", str(package), str(new))


def _install(lock: str, work: Path, new: Path) -> None:
    _say(f"installing {len(MODULES)} Python packages")
    (work / "requirements.txt").write_text(lock)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    _run(
        *(*pip, "--require-hashes", "--no-deps", "--only-binary=:all:", f"--python-version={VERSION}"),
        *("--target", str(new / "usr/lib/python3/dist-packages"), "-r", str(work / "requirements.txt")),
    )
    script = new / "usr/bin/python"
    script.write_text(_SCRIPT.replace("@VERSION@", VERSION))
    script.chmod(0o755)


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - this is a command


if __name__ == "__main__":
    prepare()
