"""Ensures that what tests start ends with them: also when a test fails, also when a process refuses to.

And that what is started at once does not get in each other's way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.ports import END, FIRST, Ports, part_of
from tests.support.processes import Sidecar, Site, listens

if TYPE_CHECKING:
    import subprocess


def failing(started: list[Sidecar], others: list[subprocess.Popen[bytes]], site: Site) -> None:
    with site:
        started.append(site.tools(site.backend()).start())
        others.append(site.process("sleep", "600"))
        assert listens(started[0].port())
        raise ZeroDivisionError


def test_a_failing_test_leaves_no_process_and_no_file() -> None:
    site = Site()
    started: list[Sidecar] = []
    others: list[subprocess.Popen[bytes]] = []
    with pytest.raises(ZeroDivisionError):
        failing(started, others, site)
    assert started[0].running.poll() is not None
    assert others[0].poll() is not None
    assert not listens(started[0].port())
    assert not site.folder.exists()


def test_no_port_is_given_twice_in_one_process_or_in_several_at_once() -> None:
    parts = [part_of({"PYTEST_XDIST_WORKER": f"gw{n}", "PYTEST_XDIST_WORKER_COUNT": "3"}) for n in range(3)]
    assert len(set().union(*parts)) == sum(map(len, parts)) > (END - FIRST) - 3
    assert part_of({}) == range(FIRST, END)
    ports = Ports(range(FIRST, END))
    given = [ports.free() for _ in range(100)]
    assert len(set(given)) == len(given)
