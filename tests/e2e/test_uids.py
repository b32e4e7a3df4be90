"""An outbound listener serves our own user and those in ``uids``: anybody else is closed, and nothing of it goes on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.e2e.test_unix_sockets import agent, mode
from tests.e2e.test_websocket import chatting
from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, ask, free_port
from tests.support.websocket import asking

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site

NOBODY, SOMEBODY = 65534, 54321
linux = pytest.mark.skipif(sys.platform != "linux", reason="whose a loopback connection is, Linux alone says")

#: Connects as another user, asks, and says the first line of what came: ``refused``, ``closed`` or a status line. With
#: ``leave`` it is gone before anybody can have answered.
CLIENT = """
import os, socket, struct, sys
uid, leave, family, *place = sys.argv[1:]
os.setgroups([]); os.setgid(int(uid)); os.setuid(int(uid))
sock = socket.socket(getattr(socket, family))
sock.settimeout(20)
try:
    sock.connect(place[0] if family == "AF_UNIX" else (place[0], int(place[1])))
    sock.sendall(b"GET /1 HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    if leave == "leave":
        sock.close()
        sys.exit()
    said = sock.recv(4096)
    print(said.split(b"\\r\\n")[0].decode() if said else "closed")
except PermissionError:
    print("refused")
except ConnectionError:
    print("closed")
"""


def as_user(uid: int, listen: str, *, leave: bool = False, from_v6: bool = False) -> str:
    if listen.startswith("unix:"):
        place = ["AF_UNIX", listen.removeprefix("unix:")]
    else:
        host, _, port = listen.rpartition(":")
        host = host.strip("[]")
        place = (
            ["AF_INET6", f"::ffff:{host}", port] if from_v6 else ["AF_INET6" if ":" in host else "AF_INET", host, port]
        )
    done = subprocess.run(
        [sys.executable, "-I", "-c", CLIENT, str(uid), "leave" if leave else "stay", *place],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd="/",
    )
    return done.stdout.strip()


def started(site: Site, backend: Backend, listen: str, *uids: int, **more: object) -> tuple[Sidecar, str]:
    """The sidecar of an agent that may be one of these users, and where it listens."""
    site.folder.chmod(0o711)
    listen = f"unix:{site.path('listen.sock')}" if listen == "unix" else f"{listen}:{free_port()}"
    entry = {"listen": listen} | ({"uids": list(uids)} if uids else {}) | more
    planner = site.planner(site.tools(backend).start(), entry)
    if more.get("protocol") == "tcp":
        del planner.config["outbound"][0]["hosts"]
    return planner.start(), listen


def connected(where: str | tuple[str, int], uid: int) -> socket.socket:
    """A connection of that user's, in our hands: a socket is the user's who made it, or who connected it."""
    family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET
    "x".encode("idna")  # loaded while we may read what is to be loaded
    os.seteuid(uid)
    try:
        sock = socket.socket(family)
        sock.settimeout(20)
        sock.connect(where)
    finally:
        os.seteuid(0)
    return sock


def refusals(planner: Sidecar, count: int, code: str) -> list[dict[str, object]]:
    lines = planner.await_log(count, event="refused", error=code, decision_reason=code, direction="outbound")
    assert planner.metric("refused_total", code=code) == len(lines) == count
    return lines


@pytest.mark.needs("root")
@linux
@pytest.mark.threat(61)
@pytest.mark.parametrize("listen", [LOOPBACK, "[::1]", "unix"])
@pytest.mark.parametrize("protocol", ["http", "tcp"])
def test_threat_61_another_user_of_the_machine_gets_nothing(
    site: Site, backend: Backend, listen: str, protocol: str
) -> None:
    planner, place = started(site, backend, listen, SOMEBODY, protocol=protocol)
    assert as_user(NOBODY, place) == "closed"
    (line,) = refusals(planner, 1, "uid_not_allowed")
    assert line["src.uid"] == NOBODY
    assert ("src.pid" in line) is (listen == "unix")
    assert backend.requests == []


@pytest.mark.needs("root")
@linux
@pytest.mark.parametrize("listen", [LOOPBACK, "[::1]", "unix"])
def test_a_user_that_the_entry_names_is_served_and_logged(site: Site, backend: Backend, listen: str) -> None:
    planner, place = started(site, backend, listen, SOMEBODY, NOBODY)
    assert as_user(NOBODY, place) == "HTTP/1.1 200 OK"
    assert as_user(os.geteuid(), place) == "HTTP/1.1 200 OK"
    lines = planner.await_log(2, event="request", direction="outbound")
    assert [line["src.uid"] for line in lines] == [NOBODY, os.geteuid()]


@pytest.mark.needs("root")
@linux
@pytest.mark.threat(61)
def test_threat_61_ipv4_from_an_ipv6_socket_is_looked_at_too(site: Site, backend: Backend) -> None:
    planner, place = started(site, backend, LOOPBACK, SOMEBODY)
    assert as_user(NOBODY, place, from_v6=True) == "closed"
    assert as_user(SOMEBODY, place, from_v6=True) == "HTTP/1.1 200 OK"
    assert refusals(planner, 1, "uid_not_allowed")[0]["src.uid"] == NOBODY


@pytest.mark.needs("root")
@linux
@pytest.mark.threat(61)
def test_threat_61_who_leaves_at_once_does_not_pass_for_root(site: Site, backend: Backend) -> None:
    """What is left of a connection is shown by the kernel as root's, and so as ours."""
    planner, place = started(site, backend, LOOPBACK)
    for _ in range(20):
        as_user(NOBODY, place, leave=True)
    eventually(lambda: len(planner.log(event="refused")) == 20, "every one of them to be refused")
    assert {line["error"] for line in planner.log(event="refused")} <= {"uid_not_allowed", "uid_unknown"}
    assert backend.requests == []


@linux
@pytest.mark.threat(61)
@pytest.mark.needs("root", "setpriv")
@pytest.mark.parametrize("listen", [LOOPBACK, "unix"])
def test_threat_61_root_is_another_user_where_we_are_not_root(site: Site, backend: Backend, listen: str) -> None:
    tools = site.tools(backend).start()
    place = f"unix:{site.path('listen.sock')}" if listen == "unix" else f"{listen}:{free_port()}"
    planner = site.planner(tools, {"listen": place})
    planner.wrapper = (
        *("env", "-u", "COVERAGE_PROCESS_START", "-u", "COVERAGE_PROCESS_CONFIG"),
        *("setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups"),
    )
    planner.owner = SOMEBODY
    for path in (site.folder, *site.folder.rglob("*")):
        os.chown(path, SOMEBODY, SOMEBODY)
    planner.start()
    assert as_user(SOMEBODY, place) == "HTTP/1.1 200 OK"
    assert as_user(0, place) == "closed"
    assert refusals(planner, 1, "uid_not_allowed")[0]["src.uid"] == 0


@pytest.mark.needs("root")
@pytest.mark.threat(61)
def test_threat_61_a_socket_of_our_own_alone_lets_nobody_else_connect(site: Site, backend: Backend) -> None:
    planner, place = started(site, backend, "unix")
    path = site.path("listen.sock")
    assert mode(path) == 0o600
    assert as_user(NOBODY, place) == "refused"
    path.chmod(0o666)
    assert as_user(NOBODY, place) == "closed", "the kernel's word on who it is counts, not the file's mode"
    refusals(planner, 1, "uid_not_allowed")


@pytest.mark.needs("root")
@linux
@pytest.mark.parametrize("listen", [LOOPBACK, "unix"])
def test_a_reload_that_takes_a_user_off_ends_its_tunnel(site: Site, backend: Backend, listen: str) -> None:
    tools = site.tools(backend)
    tools.config["inbound"][0]["forward"] = f"tcp://{LOOPBACK}:{backend.port}"
    tools.start()
    site.folder.chmod(0o711)
    place = f"unix:{site.path('listen.sock')}" if listen == "unix" else f"{listen}:{free_port()}"
    planner = site.planner(tools, {"listen": place, "protocol": "tcp", "uids": [NOBODY]})
    del planner.config["outbound"][0]["hosts"]
    planner.start()
    where = place.removeprefix("unix:") if listen == "unix" else (LOOPBACK, planner.port("outbound"))
    with connected(where, NOBODY) as theirs, connected(where, os.geteuid()) as ours:
        for each in (theirs, ours):
            each.sendall(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert each.recv(15) == b"HTTP/1.1 200 OK"
        del planner.config["outbound"][0]["uids"]
        planner.reload()
        (line,) = planner.await_log(event="tunnel", error="uid_not_allowed")
        assert line["src.uid"] == NOBODY
        ours.sendall(b"GET /2 HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: len(backend.of("/2")) == 1, "our own tunnel to go on")


@pytest.mark.needs("root")
@linux
@pytest.mark.threat(61)
def test_threat_61_a_reload_that_takes_a_user_off_ends_its_websocket(site: Site) -> None:
    with chatting() as chat:
        planner = site.planner(site.tools(chat.port).start(), {"uids": [NOBODY]}).start()
        place = (LOOPBACK, planner.port("outbound"))
        with connected(place, NOBODY) as theirs, connected(place, os.geteuid()) as ours:
            for each in (theirs, ours):
                each.sendall(asking())
                assert each.recv(4096).startswith(b"HTTP/1.1 101 ")
            del planner.config["outbound"][0]["uids"]
            planner.reload()
            with pytest.raises(ConnectionResetError):
                theirs.recv(1)
            (line,) = planner.await_log(event="request", error="uid_not_allowed")
            assert (line["src.uid"], line["http.status"]) == (NOBODY, 101)
            ours.sendall(b"\x89\x80\x00\x00\x00\x00")  # RFC 6455 5.5.2: a ping
            assert ours.recv(2) == b"\x8a\x00", "our own goes on"


@pytest.mark.needs("root")
@linux
def test_a_connection_is_not_served_on_for_a_user_that_a_reload_took_off(site: Site, backend: Backend) -> None:
    planner, _ = started(site, backend, LOOPBACK, NOBODY)
    theirs = site.agent(planner)
    theirs.sock = connected((LOOPBACK, planner.port("outbound")), NOBODY)
    assert ask(theirs, "GET", "/1").status == 200
    del planner.config["outbound"][0]["uids"]
    planner.reload()
    assert theirs.sock is not None
    assert theirs.sock.recv(1) == b""
    assert len(backend.requests) == 1


@pytest.mark.needs("root")
@linux
@pytest.mark.threat(61)
def test_threat_61_workers_look_too(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    planner = site.planner(tools, {"uids": [SOMEBODY]}, workers=2).start()
    place = planner.config["outbound"][0]["listen"]
    assert as_user(NOBODY, place) == "closed"
    assert as_user(SOMEBODY, place) == "HTTP/1.1 200 OK"
    assert refusals(planner, 1, "uid_not_allowed")[0]["src.uid"] == NOBODY


@pytest.mark.needs("root")
@linux
@pytest.mark.threat(61)
def test_threat_61_a_listener_of_several_entries_looks_too(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    planner = site.planner(tools, {"uids": [SOMEBODY]})
    entries = planner.config["outbound"]
    entries.append(entries[0] | {"name": "two", "hosts": ["other.internal"]})
    planner.start()
    place = entries[0]["listen"]
    assert as_user(NOBODY, place) == "closed"
    assert refusals(planner, 1, "uid_not_allowed")[0]["src.uid"] == NOBODY
    assert as_user(SOMEBODY, place) == "HTTP/1.1 403 Forbidden", "heard, though it names none of the entries"
    for entry in entries:
        entry["uids"] = [NOBODY]
    planner.reload()
    assert as_user(SOMEBODY, place) == "closed"
    assert as_user(NOBODY, place) == "HTTP/1.1 403 Forbidden"


@pytest.mark.needs("root", "unshare")
@linux
@pytest.mark.threat(61)
@pytest.mark.parametrize("listen", [LOOPBACK, "unix"])
def test_threat_61_users_without_a_number_in_our_namespace_are_not_told_apart(
    site: Site, backend: Backend, listen: str
) -> None:
    """They all look like uid 65534 there, so naming it would name everybody else on the machine."""
    site.folder.chmod(0o711)
    tools = site.tools(backend).start()
    place = f"unix:{site.path('listen.sock')}" if listen == "unix" else f"{listen}:{free_port()}"
    planner = site.planner(tools, {"listen": place, "uids": [NOBODY]})
    planner.wrapper = ("unshare", "--user", "--map-root-user")
    assert planner.launch().exit_code() == 1
    assert "uid 65534 is that of every user who has no number in this user namespace" in planner.stderr
    planner.config["outbound"][0]["uids"] = [SOMEBODY]
    planner.start()
    planner.config["outbound"][0]["uids"] = [NOBODY]
    planner.reload()
    assert as_user(SOMEBODY, place) == "closed"
    assert refusals(planner, 1, "uid_unknown")[0]["src.uid"] == NOBODY
    assert as_user(os.geteuid(), place) == "HTTP/1.1 200 OK"
    assert len(backend.requests) == 1


@linux
def test_where_the_kernel_does_not_say_the_process_does_not_start(site: Site, backend: Backend) -> None:
    """A sandbox without sock_diag: loopback is refused with what to do, a UNIX socket is served."""
    site.path("sitecustomize.py").write_text(
        "import sidecar.sock_diag as s\n"
        "def _find(self, own, other): raise OSError(93, 'Protocol not supported')\n"
        "s.SockDiag._find = _find\n"
    )
    planner = site.planner(site.tools(backend).start(), {})
    planner.environ["PYTHONPATH"] = str(site.folder)
    assert planner.launch().exit_code() == 1
    assert "the kernel does not say whose the clients of 127.0.0.1" in planner.stderr
    assert "listen: unix:PATH" in planner.stderr
    planner.config["outbound"][0]["listen"] = "unix:listen.sock"
    planner.start()
    assert ask(agent(site, site.path("listen.sock")), "GET", "/1").status == 200
