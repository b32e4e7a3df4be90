"""The MCP conformance suite scores the same through two sidecars as directly.

Its client speaks to the planner's sidecar as to the server itself: one of its scenarios sends a `Host` that is not the
server's, which must be refused, and so a proxy that rewrites `Host` would lose a point. The same scenario also plays a web
page of the server's own origin, which the planner's entry has to name, since a page is nobody's agent.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.conformance import score
from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, Site, free_port, listens

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("mcp", "oauth-server", "mcp-conformance")

ROOT = Path(__file__).parents[2]
#: What the suite of this version checks at least: a run that scores nothing would be equal to any other.
CHECKS = 40


@pytest.fixture
def server() -> Iterator[tuple[Site, int]]:
    with Site() as site:
        port = free_port()
        process = site.process(
            *(sys.executable, "-W", "ignore", "-m", "tests.support.conformance_server", str(port)),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(lambda: process.poll() is not None or listens(port), "the MCP server")
        assert process.poll() is None
        yield site, port


def test_the_suite_scores_the_same_through_two_sidecars(server: tuple[Site, int], tmp_path: Path) -> None:
    site, port = server
    tools = site.tools(port).start()
    listen = f"{LOOPBACK}:{free_port()}"
    planner = site.planner(tools, {"listen": listen, "origins": [f"http://{listen}"]}).start()
    directly = score(f"http://{LOOPBACK}:{port}/mcp", tmp_path / "directly")
    through = score(f"http://{listen}/mcp", tmp_path / "through")
    assert through == directly
    verdicts = [verdict for checks in through.values() for verdict in checks]
    assert sum(verdict.endswith(": SUCCESS") for verdict in verdicts) >= CHECKS
    assert not [verdict for verdict in verdicts if verdict.endswith(": FAILURE")]
    # It did come this way.
    assert len(tools.await_log(CHECKS, http_status=200)) >= CHECKS
    assert planner.await_log(1, decision_reason="web_page")
