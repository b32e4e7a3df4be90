"""Ensures that what tests start ends with them: also when a test fails, also when a process refuses to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

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
