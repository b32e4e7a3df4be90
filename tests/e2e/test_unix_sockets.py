"""UNIX sockets wherever bytes are in plaintext, and towards a peer: requests and bytes pass, files come and go."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import threading
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, PLANNER, UnixConnection, ask, free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site


class Relay:
    """A UNIX socket that leads to a port of loopback."""

    def __init__(self, path: Path, port: int) -> None:
        self.path = path
        self._port = port
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind(str(path))
        self._sock.listen(64)
        self._threads = [self._run(self._accept)]
        self._pairs: list[socket.socket] = []

    def close(self) -> None:
        for sock in (self._sock, *self._pairs):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)
        for sock in (self._sock, *self._pairs):
            sock.close()

    def _run(self, target: Callable[..., None], *arguments: socket.socket) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        return thread

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._sock.accept()
                self._pairs.append(near)
                far = socket.create_connection((LOOPBACK, self._port))
                self._pairs.append(far)
                self._threads += [self._run(_copy, near, far), self._run(_copy, far, near)]


def _copy(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    with suppress(OSError):
        other.shutdown(socket.SHUT_WR)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def relayed(site: Site, name: str, port: int) -> Path:
    relay = Relay(site.path(name), port)
    site.owns(relay.close)
    return relay.path


def agent(site: Site, path: Path) -> UnixConnection:
    connection = UnixConnection(path)
    site.owns(connection.close)
    return connection


def on_sockets(site: Site, backend: Backend, protocol: str, **entry: Any) -> tuple[Sidecar, Sidecar, Path]:
    """Both sidecars, started, with every side but the callers' listener on UNIX sockets; and where the agent connects."""
    tools = site.tools(backend, health={"listen": "unix:health.sock"})
    tools.config["inbound"][0]["forward"] = f"{protocol}+unix:{relayed(site, 'agent.sock', backend.port)}"
    tools.launch()
    way = {"connect": f"unix:{relayed(site, 'way.sock', tools.port())}", "listen": "unix:listen.sock"}
    if protocol == "tcp":
        way["protocol"] = "tcp"
    planner = site.planner(tools, way | entry)
    if protocol == "tcp":
        del planner.config["outbound"][0]["hosts"]
    planner.start()
    tools.await_ready()
    return planner, tools, site.path("listen.sock")


def test_requests_pass_over_unix_sockets_on_every_side(site: Site, backend: Backend) -> None:
    planner, tools, path = on_sockets(site, backend, "http")
    connection = agent(site, path)
    assert ask(connection, "GET", "/1").status == 200
    assert ask(connection, "POST", "/sink", body=b"x" * 300_000).json["size"] == 300_000
    (line, _) = planner.await_log(2, event="request", direction="outbound")
    assert line["src.uid"] == os.geteuid()
    assert line["src.pid"] == os.getpid()
    assert "src.addr" not in line
    assert line["dst.addr"] == f"unix:{site.path('way.sock')}"
    assert tools.await_log(2, event="request")[0]["dst.addr"] == f"unix:{site.path('agent.sock')}"
    (shown,) = planner.ask("/connections").json["connections"]
    assert (shown["src.uid"], shown["src.pid"]) == (os.geteuid(), os.getpid())
    assert planner.ask("/config").json["outbound"][0]["listen"] == f"unix:{path}"


def test_bytes_pass_over_unix_sockets_on_every_side(site: Site, backend: Backend) -> None:
    planner, _, path = on_sockets(site, backend, "tcp")
    connection = agent(site, path)
    assert ask(connection, "GET", "/1").status == 200
    connection.close()
    (line,) = planner.await_log(event="tunnel", direction="outbound")
    assert (line["src.uid"], line["src.pid"]) == (os.geteuid(), os.getpid())
    assert "error" not in line


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_files_appear_with_their_modes_and_go_with_the_process(site: Site, backend: Backend, loop: str) -> None:
    tools = site.tools(backend, health={"listen": "unix:run/health.sock"})
    tools.start("--loop", loop)
    planner = site.planner(tools, {"listen": "unix:run/listen.sock"}).start("--loop", loop)
    private, health = site.path("run/listen.sock"), site.path("run/health.sock")
    assert (mode(private), mode(health), mode(private.parent)) == (0o600, 0o666, 0o711)
    assert ask(agent(site, health), "GET", "/ready").status == 200
    assert ask(agent(site, private), "GET", "/1").status == 200
    assert planner.stop() == 0
    assert tools.stop() == 0
    assert not private.exists()
    assert not health.exists()


@pytest.mark.needs("curl")
def test_curl_and_others_call_the_listener_localhost(site: Site, backend: Backend) -> None:
    planner, _, path = on_sockets(site, backend, "http")
    for url, status in (
        ("http://localhost/1", b"200"),
        ("http://tools.internal/2", b"200"),
        ("http://other.internal/3", b"403"),
        ("http://127.0.0.1/4", b"403"),
    ):
        command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", str(path), url]
        assert subprocess.run(command, capture_output=True, timeout=20, check=True).stdout == status
    assert [request.path for request in backend.requests] == ["/1", "/2"]
    assert len(planner.await_log(2, event="request", decision="deny")) == 2


@pytest.mark.parametrize("name", ["httpx", "aiohttp"])
async def test_the_clients_of_agents_connect(site: Site, backend: Backend, name: str) -> None:
    _, _, path = on_sockets(site, backend, "http")
    if name == "httpx":
        httpx = pytest.importorskip("httpx")
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as client:
            assert (await client.get("http://tools.internal/1")).status_code == 200
    else:
        aiohttp = pytest.importorskip("aiohttp")
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(path))) as session,
            session.get("http://tools.internal/1") as response,
        ):
            assert response.status == 200
    assert [request.path for request in backend.requests] == ["/1"]


def test_several_entries_share_a_socket(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    planner = site.planner(tools, {"listen": "unix:one.sock"})
    first = planner.config["outbound"][0]
    planner.config["outbound"].append(first | {"name": "two", "hosts": ["other.internal"]})
    planner.start()
    for name in ("tools", "other"):
        assert ask(agent(site, site.path("one.sock")), "GET", f"http://{name}.internal/{name}").status == 200
    lines = planner.await_log(2, event="request", direction="outbound", decision="allow")
    assert [line["listener"] for line in lines] == ["tools", "two"]
    assert {line["src.uid"] for line in lines} == {os.geteuid()}


def test_a_socket_that_nobody_answers_is_replaced_and_a_live_one_is_an_error(site: Site, backend: Backend) -> None:
    path = site.path("listen.sock")
    tools = site.tools(backend).start()
    planner = site.planner(tools, {"listen": "unix:listen.sock"}).start()
    other = site.sidecar("other", outbound=[planner.config["outbound"][0]]).launch()
    assert other.exit_code() == 1
    assert f"another process answers at {path}" in other.stderr
    assert ask(agent(site, path), "GET", "/1").status == 200, "whoever came second has left it alone"
    planner.kill()
    assert path.exists()
    planner.start()
    assert ask(agent(site, path), "GET", "/2").status == 200


def test_a_file_that_is_no_socket_stays_and_is_named(site: Site, backend: Backend) -> None:
    site.path("listen.sock").write_text("a letter")
    planner = site.planner(1, {"listen": "unix:listen.sock"}).launch()
    assert planner.exit_code() == 1
    assert "listen.sock is there already and is no socket" in planner.stderr
    assert site.path("listen.sock").read_text() == "a letter"


def test_a_reload_adds_and_removes_sockets_and_changes_their_mode(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    planner = site.planner(tools, {"listen": "unix:one.sock"}).start()
    one, two = site.path("one.sock"), site.path("two.sock")
    stays = agent(site, one)
    assert ask(stays, "GET", "/1").status == 200
    connected = stays.sock
    planner.config["outbound"].append(planner.config["outbound"][0] | {"name": "two", "listen": "unix:two.sock"})
    planner.config["outbound"][0]["uids"] = [os.geteuid() + 1]
    planner.reload()
    assert (mode(one), mode(two)) == (0o666, 0o600)
    fresh = agent(site, two)
    assert ask(fresh, "GET", "/2").status == 200
    assert ask(stays, "GET", "/3").status == 200
    assert stays.sock is connected
    del planner.config["outbound"][1], planner.config["outbound"][0]["uids"]
    planner.reload()
    assert mode(one) == 0o600
    assert not two.exists()
    assert fresh.sock is not None
    assert fresh.sock.recv(1) == b"", "an idle connection of a listener that is gone is closed"
    assert ask(stays, "GET", "/4").status == 200


def test_a_reload_onto_a_taken_path_is_refused_and_leaves_no_file(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    planner = site.planner(tools, {"listen": "unix:one.sock"}).start()
    relayed(site, "taken.sock", backend.port)
    first = planner.config["outbound"][0]
    planner.config["outbound"] += [
        first | {"name": "two", "listen": "unix:two.sock"},
        first | {"name": "three", "listen": "unix:taken.sock"},
    ]
    planner.reload(result="failed")
    planner.await_log(event="reload", error="address_in_use")
    assert not site.path("two.sock").exists()
    assert site.path("taken.sock").exists()
    assert ask(agent(site, site.path("one.sock")), "GET", "/1").status == 200


def test_a_file_of_somebody_else_is_left_where_it_is(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    planner = site.planner(tools, {"listen": "unix:one.sock"}).start()
    path = site.path("one.sock")
    path.unlink()
    relayed(site, "one.sock", backend.port)
    assert planner.stop() == 0
    assert path.exists()


@pytest.mark.threat(24)
@pytest.mark.parametrize("workers", [1, 2])
def test_threat_24_a_file_that_cannot_be_removed_leaves_no_reload_half_taken(
    site: Site, backend: Backend, workers: int
) -> None:
    folder = site.path("folder")
    folder.mkdir()
    planner = site.planner(site.tools(backend).start(), {"listen": f"unix:{folder}/s"}, workers=workers).start()
    folder.rename(site.path("elsewhere"))
    folder.touch()  # its way leads to nothing any more
    planner.config["outbound"][0]["listen"] = f"{LOOPBACK}:{free_port()}"
    planner.reload()
    assert ask(site.agent(planner), "GET", "/x").status == 200
    assert planner.stop() == 0


@pytest.mark.threat(52)
def test_threat_52_an_agent_whose_socket_is_missing_is_502_until_it_is_there(site: Site, backend: Backend) -> None:
    tools = site.tools(backend)
    tools.config["inbound"][0]["forward"] = "http+unix:agent.sock"
    tools.start()
    caller = site.caller(tools.port())
    assert ask(caller, "GET", "/1").status == 502
    tools.await_log(error="upstream_refused", http_status=502)
    relayed(site, "agent.sock", backend.port)
    assert ask(caller, "GET", "/2").status == 200


def test_a_drain_finishes_what_is_in_flight_and_then_the_file_is_gone(site: Site, backend: Backend) -> None:
    planner, _, path = on_sockets(site, backend, "http")
    with closing(UnixConnection(path)) as connection:
        connection.request("GET", "/hold")
        backend.await_held()
        planner.signal(signal.SIGTERM)
        eventually(lambda: not path.exists(), "the file to be gone")
        backend.release()
        assert connection.getresponse().status == 200
    assert planner.exit_code() == 0


def test_workers_share_a_socket_and_the_parent_owns_its_file(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    planner = site.planner(tools, {"listen": "unix:one.sock"}, workers=2).start()
    path = site.path("one.sock")
    for _ in range(8):
        with closing(UnixConnection(path)) as connection:
            assert ask(connection, "GET", "/1").status == 200
    assert mode(path) == 0o600
    planner.config["outbound"][0]["uids"] = [os.geteuid() + 1]
    planner.config["outbound"].append(planner.config["outbound"][0] | {"name": "two", "listen": "unix:two.sock"})
    planner.reload()
    assert (mode(path), mode(site.path("two.sock"))) == (0o666, 0o666)
    assert ask(agent(site, site.path("two.sock")), "GET", "/2").status == 200
    assert planner.stop() == 0
    assert not path.exists()
    assert not site.path("two.sock").exists()


def test_what_a_configuration_may_not_say_of_sockets(site: Site, backend: Backend) -> None:
    """Every fault at once, by the command that people use first."""
    tools = site.tools(backend)
    entry = tools.config["inbound"][0]
    tools.config["inbound"] = [
        entry | {"listen": "unix:callers.sock"},
        entry | {"name": "own", "forward": "http+unix:./x/../listen.sock", "listen": f"{LOOPBACK}:1"},
        entry | {"name": "admin", "forward": f"tcp+unix:{tools.socket}", "listen": f"{LOOPBACK}:2", "allow": [PLANNER]},
        entry | {"name": "url", "forward": "http+unix://run/x", "listen": f"{LOOPBACK}:3", "uids": [1]},
    ]
    tools.config["inbound"][2]["allow"] = [{"caller": PLANNER}]
    out = {"peer": "spiffe://example.org/agent/x", "connect": f"{LOOPBACK}:9"}
    tools.config["outbound"] = [
        out | {"name": "a", "listen": "unix:listen.sock", "uids": []},
        out | {"name": "b", "listen": f"unix:{tools.socket}"},
        out | {"name": "c", "listen": "0.0.0.0:4", "unsafe_plaintext_listen": True, "uids": [1]},
    ]
    tools.config["health"] = {"listen": "unix:listen.sock"}
    tools.write()
    said = site.command("check", str(tools.file))
    assert said.returncode == 2
    for key, text in (
        ("inbound[0].listen", "is a UNIX socket, and callers come"),
        ("inbound[1].forward", "is this sidecar's own outbound[0].listen"),
        ("inbound[2].forward", "is this sidecar's own administration socket"),
        ("inbound[3].forward", "two slashes follow unix:"),
        ("inbound[3].uids", "uids belongs to an outbound entry"),
        ("outbound[0].uids", "the list is empty"),
        ("outbound[1].listen", "the administration socket is"),
        ("outbound[2].uids", "the user of a client on another machine is not known"),
        ("health.listen", "outbound[0].listen on line"),
    ):
        assert any(f"{key}: " in line and text in line for line in said.stderr.splitlines()), (key, said.stderr)
