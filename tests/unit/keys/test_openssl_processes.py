"""Whole processes with lent keys: what is left after thousands of handshakes, how they end, and OpenSSL's configuration file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.openssl_exit import SCENARIOS
from tests.support.openssl_leak import KINDS

ROOT = Path(__file__).parent.parent.parent.parent
SOAK = bool(os.environ.get("SIDECAR_SOAK"))
#: How often each thing is done that must leave nothing behind; the many with SIDECAR_SOAK.
COUNTS = dict.fromkeys(KINDS, 10000 if SOAK else 1500) | {"rotations": 5000 if SOAK else 300}
#: How often each end is tried.
ROUNDS = 40 if SOAK else 3
#: Of a process, its exit code. The others end well.
CODES = {"sys_exit": 3, "exit_in_sign": 3, "exception": 1, "terminated": -15, "terminated_in_sign": -15}


def run(module: str, *arguments: object, limit: float = 500, **environ: str) -> subprocess.CompletedProcess[str]:
    # Without the measuring of coverage, whose own memory and last words these tests would find.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")} | environ
    return subprocess.run(
        [sys.executable, "-m", f"tests.support.{module}", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", KINDS)
def test_nothing_leaks(what: str) -> None:
    count = COUNTS[what]
    done = run("openssl_leak", what, count)
    assert (done.returncode, done.stderr) == (0, "")
    grown = json.loads(done.stdout)
    assert (grown["keys"], grown["signatures"]) == (0, 0)
    # However many handshakes there were: of one object or of a few bytes for each, these would be many times as much.
    assert grown["blocks"] < 500, grown
    assert grown.get("heap", 0) < 40 * 1024, grown
    assert grown["rss"] < 2 * 1024 * 1024, grown


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_interpreter_ends_at_any_moment(scenario: str) -> None:
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        ended = list(pool.map(lambda round_: run("openssl_exit", scenario, round_, limit=60), range(ROUNDS)))
    assert [done.returncode for done in ended] == [CODES.get(scenario, 0)] * ROUNDS, ended
    for done in ended:
        assert done.stdout == ""
        if scenario == "exception":
            assert done.stderr.count("Traceback") == 1
            assert done.stderr.endswith("\nRuntimeError: as the test says\n")
        else:
            assert done.stderr == ""


class TestConfiguration:
    """What a site's openssl.cnf says reaches the provider as well."""

    def tried(self, tmp_path: Path, *sections: str) -> list[str]:
        file = tmp_path / "openssl.cnf"
        file.write_text("\n".join(["openssl_conf = init", "[init]", *sections, ""]))
        done = run("openssl_try", OPENSSL_CONF=str(file))
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    @pytest.mark.parametrize(
        "sections",
        [
            [],
            ["alg_section = alg", "[alg]", "default_properties = ?provider=default"],
            ["providers = all", "[all]", "default = on", "legacy = on", "[on]", "activate = 1"],
            ["ssl_conf = s", "[s]", "system_default = d", "[d]", "CipherString = DEFAULT:@SECLEVEL=2"],
        ],
        ids=["nothing", "a-preference", "providers", "security-level"],
    )
    def test_it_is_no_obstacle(self, tmp_path: Path, sections: list[str]) -> None:
        assert self.tried(tmp_path, *sections) == ["signed once", "left: 0"]

    @pytest.mark.parametrize("properties", ["fips=yes", "provider=default", "provider!=sidecar"])
    def test_it_keeps_us_away(self, tmp_path: Path, properties: str) -> None:
        """The self-test at the start finds it, before a port is open."""
        code, message, hint, asked, left = self.tried(
            tmp_path, "alg_section = alg", "[alg]", f"default_properties = {properties}"
        )
        assert code == "key_openssl_unsuitable"
        assert "is configured to use no other provider" in message
        assert "default_properties" in hint
        assert "OPENSSL_CONF" in hint
        assert asked == "asked: 0"
        assert left == "left: 0"
