"""A protocol that is none of ours through the pair: git clones a repository from `git daemon`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, free_port, listens
from tests.support.raw import planner, tools

if TYPE_CHECKING:
    from tests.support.processes import Site

pytestmark = pytest.mark.needs("git")

#: Nobody's configuration but this.
ALONE = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "HOME": os.devnull}


def git(folder: Path, *arguments: str) -> str:
    name = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(
        ["git", *name, *arguments],
        cwd=folder,
        env=os.environ | ALONE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_git_clones_through_the_pair(site: Site) -> None:
    repository, port = site.path("there"), free_port()
    git(site.folder, "init", "--quiet", str(repository))
    (repository / "large").write_bytes(os.urandom(2_000_000))
    git(repository, "add", "large")
    git(repository, "commit", "--quiet", "--message", "large")
    core = Path(subprocess.run(["git", "--exec-path"], check=True, capture_output=True, text=True).stdout.strip())
    site.process(
        # Not ``git daemon``, which starts this program and leaves it behind when it is ended.
        *(str(core / "git-daemon"), "--reuseaddr", "--export-all", f"--base-path={site.folder}", "--listen=127.0.0.1"),
        *(f"--port={port}", str(site.folder)),
        env=os.environ | ALONE,
        stderr=subprocess.DEVNULL,
    )
    eventually(lambda: listens(port), "git daemon to listen")
    called = tools(site, port).start()
    calling = planner(site, called).start()
    git(site.folder, "clone", "--quiet", f"git://{LOOPBACK}:{calling.port('outbound')}/there", "here")
    assert (site.path("here") / "large").read_bytes() == (repository / "large").read_bytes()
    (line,) = calling.await_log(event="tunnel")
    assert line["bytes_sent"] > 2_000_000
    assert "error" not in line
