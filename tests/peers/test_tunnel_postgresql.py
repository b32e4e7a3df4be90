"""PostgreSQL through tcp entries: a server behind one sidecar, its own clients behind the other, mutual TLS between them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, PLANNER, TOOLS, free_port
from tests.support.raw import planner, tools

if TYPE_CHECKING:
    from tests.support.processes import Sidecar, Site

pytestmark = pytest.mark.needs("postgresql")

#: The server does not run as root; then it runs as the user that owns nothing.
NOBODY = 65534
USER = "tester"


def programs() -> Path:
    """Debian keeps them beside each other by version, and off the path."""
    return max(Path("/usr/lib/postgresql").glob("*/bin/initdb")).parent


class Server:
    """A server with a folder of its own, and one user whom it trusts on loopback."""

    def __init__(self, site: Site) -> None:
        self.port = free_port()
        data, said = site.path("postgresql"), site.path("postgresql.said")
        data.mkdir(mode=0o700)
        more: dict[str, object] = {}
        if os.geteuid() == 0:
            site.folder.chmod(0o711)
            os.chown(data, NOBODY, NOBODY)
            more = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        with said.open("wb") as out:
            where = {"cwd": data, "stdout": out, "stderr": out} | more
            made = [str(programs() / "initdb"), "-D", str(data), "-U", USER, "-A", "trust", "--no-sync", "-E", "UTF8"]
            subprocess.run(made, check=True, timeout=60, env=os.environ | {"LC_ALL": "C"}, **where)
            options = ("-c", f"listen_addresses={LOOPBACK}", "-c", f"unix_socket_directories={data}", "-c", "fsync=off")
            command = (str(programs() / "postgres"), "-D", str(data), "-p", str(self.port), *options)
            self.process = site.process(*command, **where)
        eventually(lambda: self.process.poll() is not None or self._answers(), "PostgreSQL to answer")
        assert self.process.poll() is None, said.read_text()

    def _answers(self) -> bool:
        command = [str(programs() / "pg_isready"), "-q", "-h", LOOPBACK, "-p", str(self.port)]
        return subprocess.run(command, timeout=10, check=False).returncode == 0


class Stage:
    def __init__(self, site: Site) -> None:
        self.server = Server(site)
        self.called: Sidecar = tools(site, self.server.port).start()
        self.calling: Sidecar = planner(site, self.called).start()

    def run(self, program: str, *arguments: str, send: str | None = None, check: bool = True) -> str:
        """Runs a client as the agent: it is told the port of the planner's sidecar and nothing else."""
        where = ("-h", LOOPBACK, "-p", str(self.calling.port("outbound")), "-U", USER)
        done = subprocess.run(
            [str(programs() / program), *where, *arguments],
            input=send,
            env=os.environ | {"PGSSLMODE": "prefer", "PGCONNECT_TIMEOUT": "10"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def psql(self, *statements: str, send: str | None = None) -> str:
        words = [word for statement in statements for word in ("-c", statement)]
        return self.run("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "postgres", *words, send=send)


@pytest.fixture
def stage(site: Site) -> Stage:
    return Stage(site)


def test_queries_copies_and_many_clients(stage: Stage) -> None:
    assert stage.psql("select 6 * 7") == "42\n"
    # A megabyte in by COPY, and out again as one value.
    rows = "".join(f"{n}\t{'x' * 100}\n" for n in range(10_000))
    stage.psql("create table t (n int, x text)", "copy t from stdin", send=rows)
    assert stage.psql("select count(*), sum(n) from t") == "10000|49995000\n"
    assert len(stage.psql("select string_agg(x, '') from t")) == 1_000_001
    stage.run("pgbench", "-i", "-q", "-s", "1", "postgres")
    said = stage.run("pgbench", "-c", "4", "-j", "2", "-t", "25", "postgres")
    assert "number of transactions actually processed: 100/100" in said
    lines = stage.calling.await_log(5, event="tunnel")
    assert {line["dst.identity"] for line in lines} == {TOOLS}
    assert not [line["error"] for line in lines if "error" in line]
    assert {line["src.identity"] for line in stage.called.await_log(5, event="tunnel")} == {PLANNER}


def test_a_server_that_ends_in_the_middle_is_told_as_an_error(stage: Stage) -> None:
    """A client must not take the end of its server for the end of an answer."""
    where = ("-h", LOOPBACK, "-p", str(stage.calling.port("outbound")), "-U", USER, "-d", "postgres")
    waits = subprocess.Popen(
        [str(programs() / "psql"), *where, "-X", "-c", "select pg_sleep(60)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    asleep = "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'"
    try:
        eventually(lambda: stage.psql(asleep) == "1\n", "the query to run")
        stage.psql("select pg_terminate_backend(pid) from pg_stat_activity where query like 'select pg_sleep%'")
        _, said = waits.communicate(timeout=20)
    finally:
        waits.kill()
    assert waits.returncode != 0
    assert "terminating connection" in said
