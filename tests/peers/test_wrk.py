"""wrk, a client that pipelines nothing and waits for nobody: many connections at once through the pair, each answer whole."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import LOOPBACK

if TYPE_CHECKING:
    from tests.support.processes import Pair

pytestmark = pytest.mark.needs("wrk")

SECONDS = 2


@pytest.mark.parametrize("path", ["/wrk", "/bytes/20000"])
def test_many_connections_at_once(shared: Pair, path: str) -> None:
    url = f"http://{LOOPBACK}:{shared.planner.port('outbound')}{path}"
    command = ["wrk", "-t", "2", "-c", "32", "-d", f"{SECONDS}s", "-H", "Host: tools.internal", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + 30, check=True)
    # What went wrong is told in a line of its own: "Socket errors: ..." or "Non-2xx or 3xx responses: ...".
    assert "errors" not in done.stdout
    assert "Non-2xx" not in done.stdout
    found = re.search(r"(\d+) requests in", done.stdout)
    assert found is not None
    assert int(found[1]) >= 100
    assert len(shared.tools.await_log(int(found[1]), http_path=path, http_status=200)) >= int(found[1])
