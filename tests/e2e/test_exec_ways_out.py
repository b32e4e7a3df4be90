"""The agent of ``sidecar exec`` reaches every outbound entry by name through one listener, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.test_uids import NOBODY, as_user
from tests.support.eventually import eventually
from tests.support.execution import Execution
from tests.support.processes import TOOLS, free_port, outbound
from tests.support.workers import children

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site

#: Answers each line, a URL, with the status and the body that it gets there; "env" with what it was told.
AGENT = """
import json, os, sys, urllib.error, urllib.request
for line in sys.stdin:
    words = line.split()
    if words[0] == "env":
        names = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy")
        told = {name: value for name, value in os.environ.items() if name in names or name.startswith("SIDECAR_")}
        print(json.dumps(told), flush=True)
        continue
    try:
        with urllib.request.urlopen(words[0], timeout=20) as answer:
            print(answer.status, flush=True)
    except urllib.error.HTTPError as error:
        print(error.code, flush=True)
    except OSError as error:
        print(type(error).__name__, error, flush=True)
"""


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own proxies are not the tests'."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def planner(site: Site, tools: Sidecar, **parts: Any) -> Sidecar:
    """Three entries: with a host, without one, and raw."""
    entries = [
        outbound("tools", tools.port()),
        {key: value for key, value in outbound("no-host", tools.port()).items() if key != "hosts"},
        {
            "name": "raw",
            "listen": f"127.0.0.1:{free_port()}",
            "protocol": "tcp",
            "connect": f"127.0.0.1:{tools.port()}",
            "peer": TOOLS,
        },
    ]
    return site.sidecar("planner", outbound=entries, **parts)


def ports(sidecar: Sidecar) -> list[int]:
    return [sidecar.port("outbound", entry) for entry in range(len(sidecar.config["outbound"]))]


@pytest.mark.parametrize("workers", [1, 2])
def test_every_entry_by_name_and_nothing_else(site: Site, backend: Backend, workers: int) -> None:
    tools = site.tools(backend).start()
    sidecar = planner(site, tools, workers=workers)
    execution = Execution(site, sidecar, AGENT)
    told = json.loads(execution.ask("env"))
    proxy = told["HTTP_PROXY"]
    first, second, third = ports(sidecar)
    assert told == {
        **dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), proxy),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1"),
        "SIDECAR_TOOLS_URL": f"http://127.0.0.1:{first}",
        "SIDECAR_NO_HOST_URL": f"http://127.0.0.1:{second}",
        "SIDECAR_RAW_URL": f"tcp://127.0.0.1:{third}",
    }
    assert proxy.startswith("http://127.0.0.1:")
    assert int(proxy.rpartition(":")[2]) not in {first, second, third}
    for url in ("http://tools.internal/a", "http://no-host/b", f"{told['SIDECAR_TOOLS_URL']}/c"):
        assert execution.ask(url) == "200", (url, execution.stderr)
    before = len(backend.requests)
    for url in ("http://other.internal/", "http://169.254.169.254/latest/meta-data", "http://raw/"):
        assert execution.ask(url) == "403", url
    # Nothing is ever resolved or dialled for it, and a request that is for the listener itself is none's.
    assert execution.ask(f"{proxy}/") == "403"
    assert len(backend.requests) == before
    execution.process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
    assert execution.end() == 0


def test_the_entries_of_a_reload_are_served_there_too(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    sidecar = planner(site, tools)
    execution = Execution(site, sidecar, AGENT)
    assert execution.ask("http://tools.internal/") == "200"
    assert execution.ask("http://later.internal/") == "403"
    sidecar.config["outbound"][0]["hosts"] = ["later.internal"]
    sidecar.write()
    eventually(lambda: execution.ask("http://later.internal/") == "200", "the changed file to be in force")
    assert execution.ask("http://tools.internal/") == "403"


@pytest.mark.parametrize("workers", [1, 2])
def test_the_agents_proxy_outlives_a_time_in_which_nothing_is_named(site: Site, backend: Backend, workers: int) -> None:
    """It answers as it does for whatever is not named, and serves again, at the same address, when entries come back."""
    tools = site.tools(backend).start()
    sidecar = planner(site, tools, workers=workers)
    sidecar.config["inbound"] = [tools.config["inbound"][0] | {"name": "kept", "listen": f"127.0.0.1:{free_port()}"}]
    execution = Execution(site, sidecar, AGENT)
    proxy = json.loads(execution.ask("env"))["HTTP_PROXY"]
    assert execution.ask("http://tools.internal/") == "200"
    entries = sidecar.config["outbound"]
    for _ in range(2):
        sidecar.config["outbound"] = []
        sidecar.write()
        eventually(lambda: execution.ask("http://tools.internal/") == "403", "the changed file to be in force")
        for url in ("http://no-host/", f"{proxy}/", "http://169.254.169.254/latest/meta-data"):
            assert execution.ask(url) == "403", url
        sidecar.await_log(
            listener="agent_listener", decision="deny", decision_reason="host_not_served", dst_name="no-host"
        )
        sidecar.config["outbound"] = entries
        sidecar.write()
        eventually(lambda: execution.ask("http://tools.internal/") == "200", "the entries to be back")
        assert execution.ask("http://no-host/") == "200"
    execution.process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
    assert execution.end() == 0


@pytest.mark.needs("root")
@pytest.mark.skipif(sys.platform != "linux", reason="whose a loopback connection is, Linux alone says")
@pytest.mark.threat(61)
def test_threat_61_the_agents_proxy_is_for_no_other_user_while_nothing_is_named_either(
    site: Site, backend: Backend
) -> None:
    tools = site.tools(backend).start()
    sidecar = planner(site, tools)
    sidecar.config["inbound"] = [tools.config["inbound"][0] | {"name": "kept", "listen": f"127.0.0.1:{free_port()}"}]
    execution = Execution(site, sidecar, AGENT)
    place = json.loads(execution.ask("env"))["HTTP_PROXY"].removeprefix("http://")
    sidecar.config["outbound"] = []
    sidecar.write()
    eventually(lambda: execution.ask("http://tools.internal/") == "403", "the changed file to be in force")
    assert as_user(NOBODY, place) == "closed"
    (line,) = sidecar.await_log(event="refused", error="uid_not_allowed")
    assert (line["listener"], line["src.uid"]) == ("agent_listener", NOBODY)


def test_entries_that_share_a_listener_are_told_by_their_hosts(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    one, two = outbound("one", tools.port()), outbound("two", tools.port())
    two |= {"listen": one["listen"], "hosts": ["z.internal", "b.internal:8080"]}
    execution = Execution(site, site.sidecar("planner", outbound=[one, two]), AGENT)
    told = json.loads(execution.ask("env"))
    assert told["SIDECAR_ONE_URL"] == "http://tools.internal"
    assert told["SIDECAR_TWO_URL"] == "http://b.internal:8080"
    for url in (told["SIDECAR_ONE_URL"], told["SIDECAR_TWO_URL"], "http://z.internal"):
        assert execution.ask(f"{url}/") == "200"


def test_without_outbound_entries_no_proxy_is_named(site: Site, backend: Backend) -> None:
    execution = Execution(site, site.tools(backend), AGENT)
    assert json.loads(execution.ask("env")) == {}


@pytest.mark.needs("root", "unshare")
def test_as_process_1_with_workers_and_a_unix_socket_nothing_outlives_it(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    sidecar = planner(site, tools, workers=2)
    path = site.path("agent.sock")
    sidecar.config["outbound"][0]["listen"] = f"unix:{path}"
    execution = Execution(site, sidecar, AGENT, wrapper=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"))
    assert json.loads(execution.ask("env"))["SIDECAR_TOOLS_URL"] == "http://tools.internal"
    (first,) = children(execution.process.pid)  # 1 in its own namespace
    (proxy,) = [pid for pid, command in children(first).items() if " run " in command]
    workers = {pid for pid, command in children(proxy).items() if " worker --of " in command}
    assert len(workers) == 2
    os.kill(min(workers), signal.SIGKILL)
    eventually(lambda: "a worker serves in its place" in execution.stderr, "another worker")
    for _ in range(5):
        assert execution.ask("http://tools.internal/") == "200", execution.stderr
    os.kill(first, signal.SIGTERM)  # the agent's, which has no handler for it
    assert execution.end() == 128 + signal.SIGTERM
    assert not path.exists()
    assert "draining" in execution.stderr


def test_a_proxy_with_workers_that_dies_takes_its_workers_and_the_agent_along(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    execution = Execution(site, planner(site, tools, workers=2), AGENT)
    assert execution.ask("http://tools.internal/") == "200"
    workers = list(children(execution.proxy))
    assert len(workers) == 2
    os.kill(execution.proxy, signal.SIGKILL)
    assert execution.end() == 1
    assert "the proxy ended by signal 9" in execution.stderr
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "the workers to end")
