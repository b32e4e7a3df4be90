"""OpenSSL 3.5 and the Python that goes with it: lent keys, and the TLS engine, by the tests of these themselves."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.support.machine import PARTS
from tests.support.newer_openssl import FOLDER, MODULES, PYTHON, ROOT, pinned, sources, version

needs_it = pytest.mark.needs("openssl-newer")
#: Compares the names of errors with OpenSSL's texts for them, which have gone other ways since.
OLDER_TEXTS = "tests/unit/tls/test_failure.py::test_every_mnemonic_in_the_table_is_one_of_openssls"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Without CI: there, what the folder lacks (curl's like, and uvloop) would be a failure.
    environment = {
        name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("COVERAGE")
    }
    command = [PYTHON, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)


@needs_it
def test_it_is_newer_and_calls_itself_by_a_name_that_works() -> None:
    major, minor, _ = map(int, re.findall(r"\d+", version())[:3])
    assert (major, minor) >= (3, 5)
    again = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', 'import ssl; print(ssl.OPENSSL_VERSION)']))"
    done = run("-c", again)
    assert (done.returncode, done.stdout.strip()) == (0, version())


@needs_it
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("tests", "at_least"),
    [
        ("tests/unit/keys/test_openssl.py", 70),
        ("tests/unit/keys/test_openssl_lifetime.py", 15),
        ("tests/unit/keys/test_openssl_beside.py", 35),
        ("tests/unit/keys/test_openssl_signing.py", 20),
        ("tests/unit/keys/test_openssl_processes.py", 25),
        ("tests/unit/tls", 300),
    ],
)
def test_all_of_these_pass_there(tests: str, at_least: int) -> None:
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--deselect", OLDER_TEXTS, tests)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= at_least


def test_the_folder_is_the_one_that_the_list_of_parts_names() -> None:
    kind, name, how = PARTS["openssl-newer"]
    assert (kind, ROOT / name, how) == ("folder", FOLDER, ".venv/bin/python -m tests.support.newer_openssl")


def test_the_mirrors_are_the_machines_own() -> None:
    targets = """\
http://mirror.example/debian/ bookworm main
http://mirror.example/debian/ bookworm main
http://mirror.example/debian/ bookworm contrib
http://mirror.example/debian/ bookworm-updates main
http://mirror.example/debian/ bookworm-backports main
http://security.example/ bookworm-security main
http://elsewhere.example/ stable main
"""
    key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    assert sources(targets, "bookworm").splitlines() == [
        f"deb {key} http://mirror.example/debian/ trixie main",
        f"deb {key} http://mirror.example/debian/ trixie-updates main",
        f"deb {key} http://security.example/ trixie-security main",
    ]


def test_every_python_package_is_pinned_with_its_hashes() -> None:
    lock = pinned((ROOT / "requirements.lock").read_text())
    entries = re.split(r"\n(?=\S)", lock.strip())
    assert {entry.partition("==")[0] for entry in entries} == MODULES
    assert all("--hash=sha256:" in entry for entry in entries)
