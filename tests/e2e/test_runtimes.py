"""Ensures that the pair serves alike on either event loop and with either body parser, and says what is not installed.

httptools and uvloop are made unimportable by a folder on PYTHONPATH whose modules of those names raise ImportError.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ask

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Site

BODY = bytes(range(256)) * 1200


def without(site: Site, *modules: str) -> dict[str, str]:
    folder = site.path("absent")
    folder.mkdir(exist_ok=True)
    for module in modules:
        (folder / f"{module}.py").write_text(f"raise ImportError('{module} is absent', name='{module}')\n")
    return {"PYTHONPATH": str(folder)}


@pytest.mark.needs("root")
@pytest.mark.parametrize(
    ("loop", "absent"),
    [
        ("asyncio", ()),
        pytest.param("uvloop", (), marks=pytest.mark.needs("uvloop")),
        ("auto", ("httptools",)),
        ("auto", ("uvloop", "httptools")),
    ],
)
def test_bodies_go_through_whole(site: Site, backend: Backend, loop: str, absent: tuple[str, ...]) -> None:
    tools = site.tools(backend)
    planner = site.planner(tools)
    for sidecar in (tools, planner):
        sidecar.environ = without(site, *absent)
        sidecar.launch("--loop", loop)
    for sidecar in (tools, planner):
        sidecar.await_ready()
    agent = site.agent(planner)
    expected = {"size": len(BODY), "sha256": hashlib.sha256(BODY).hexdigest()}
    assert ask(agent, "POST", "/sink", body=BODY).json == expected
    assert ask(agent, "POST", "/sink", body=(BODY[n : n + 7777] for n in range(0, len(BODY), 7777))).json == expected
    assert ask(agent, "GET", "/bytes/300000").body == b"x" * 300_000
    assert ask(agent, "HEAD", "/bytes/300000").body == b""
    for sidecar in (tools, planner):
        maps = Path(f"/proc/{sidecar.running.pid}/maps").read_text()
        assert ("httptools" in maps) is (not absent)
        assert ("uvloop" in maps) is (loop == "uvloop" or absent == ("httptools",))
    agent.close()
    assert (planner.stop(), tools.stop()) == (0, 0)
    assert "Traceback" not in planner.stderr + tools.stderr


def test_a_loop_that_is_asked_for_and_absent_is_named(site: Site, backend: Backend) -> None:
    tools = site.tools(backend)
    tools.environ = without(site, "uvloop")
    assert tools.launch("--loop", "uvloop").exit_code() == 2
    assert "uvloop is not installed" in tools.stderr
    assert "Traceback" not in tools.stderr


def test_nothing_heavy_is_loaded_beside_an_agent(site: Site, backend: Backend) -> None:
    """`run` has no use for web frameworks, terminals or the test's own libraries; the metrics' library waits to be asked."""
    tools = site.tools(backend)
    folder = without(site, "starlette", "uvicorn", "mcp", "rich", "pydantic", "httpx2", "OpenSSL", "prometheus_client")
    tools.environ = folder
    tools.start()
    assert ask(site.caller(tools.port()), "GET", "/x").status == 200


#: What costs memory and few configurations use, by what a process must not have loaded at rest.
RARE = {
    "shutil", "platform", "difflib", "tempfile", "jwt", "sidecar.app.public", "sidecar.app.token_sources",
    "sidecar.app.tunnels", "sidecar.identity.bundle_json", "sidecar.proxy.connect_tunnel", "sidecar.proxy.front",
    "sidecar.proxy.proxy_protocol", "sidecar.proxy.splice", "sidecar.proxy.tunnel", "sidecar.proxy.upgrade",
}  # fmt: skip
OUTBOUND = {"sidecar.app.outbound", "sidecar.proxy.agent_service", "sidecar.proxy.clients", "sidecar.proxy.connect"}


@pytest.mark.parametrize(("entry", "rare"), [("inbound", RARE | OUTBOUND), ("outbound", RARE)])
def test_what_few_use_is_not_loaded_where_nobody_does(site: Site, backend: Backend, entry: str, rare: set[str]) -> None:
    tools = site.tools(backend)
    sidecar = tools if entry == "inbound" else site.planner(tools)
    # A process that measures its coverage has loaded what that needs.
    sidecar.environ = {"PYTHONPROFILEIMPORTTIME": "1", "COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}
    sidecar.start()
    loaded = {
        line.rpartition("|")[2].strip() for line in sidecar.stderr.splitlines() if line.startswith("import time:")
    }
    assert {f"sidecar.proxy.{entry}", "sidecar.proxy.downstream"} <= loaded
    assert not loaded & rare
