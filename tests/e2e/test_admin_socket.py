"""Ensures that the admin socket serves us and root alone, is never left to chance, and never stands in anybody's way.

Its file has mode 0600. What connects is asked for its uid by the kernel, so that a file whose mode was widened serves no
stranger either. A socket whose process is gone is replaced, one that answers is a start error, a file that is no socket
is left alone. Nothing that it answers changes the process, save ``POST /drain``.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import PLANNER, TOOLS, UnixConnection, ask

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Pair, Site

#: Connects as another user, and says what came of it: ``refused``, ``closed`` or what was answered.
FOREIGN = """
import os, socket, sys
path, uid = sys.argv[1], int(sys.argv[2])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(10)
try:
    sock.connect(path)
    sock.sendall(b"POST /drain HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    said = sock.recv(4096)
    print(said.split(b"\\r\\n")[0].decode() if said else "closed")
except PermissionError:
    print("refused")
except ConnectionError:
    print("closed")
"""
NOBODY = 65534
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="to become another user needs CAP_SETUID: run the tests as root"
)


def as_user(path: object, uid: int) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-c", FOREIGN, str(path), str(uid)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        cwd="/",
    )
    return done.stdout.strip()


@pytest.mark.threat(25)
def test_threat_25_the_socket_is_closed_to_others(shared: Pair) -> None:
    mode = stat.S_IMODE(shared.tools.socket.stat().st_mode)
    assert mode == 0o600


@pytest.mark.threat(25)
@needs_root
def test_threat_25_a_foreign_uid_is_refused_even_where_the_file_lets_it_in(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, admin={"listen": f"unix:{site.path('tools.sock')}", "uids": [NOBODY - 1]}).start()
    site.folder.chmod(0o711)
    assert as_user(tools.socket, NOBODY) == "refused"
    tools.socket.chmod(0o666)
    assert as_user(tools.socket, NOBODY) == "closed"
    tools.await_stderr(f"the admin socket refused a connection uid={NOBODY}")
    assert tools.ready
    assert as_user(tools.socket, NOBODY - 1) == "HTTP/1.1 202 Accepted", "a uid that the file names is served"
    assert tools.exit_code() == 0


def test_a_socket_that_nobody_answers_is_replaced_and_a_live_one_is_an_error(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    tools.kill()
    assert tools.socket.is_socket()
    tools.start()
    second = site.sidecar("second", **tools.config)
    second.config["inbound"] = [tools.config["inbound"][0] | {"listen": "127.0.0.1:1"}]
    assert second.launch().exit_code() == 1
    assert f"another process answers at {tools.socket}" in second.stderr
    assert tools.ready
    assert tools.stop() == 0
    tools.socket.write_text("precious")
    assert tools.launch().exit_code() == 1
    assert "is no socket" in tools.stderr
    assert tools.socket.read_text() == "precious"


@pytest.mark.threat(25)
def test_threat_25_what_can_be_asked(shared: Pair) -> None:
    tools = shared.tools
    caller = shared.site.caller(tools.port())
    assert ask(caller, "GET", "/admin-socket").status == 200
    assert tools.ask("/live").status == tools.ask("/ready").status == 200
    config = tools.ask("/config").json
    assert config["inbound"][0]["allow"][0]["caller"] == PLANNER
    assert config["identity"]["key"] == str(shared.site.path("tools.key"))
    (certificate,) = tools.ask("/certs").json["certs"]
    assert (certificate["identity"], certificate["key_protection"]) == (TOOLS, "software")
    assert certificate["pin"].startswith("sha256:")
    host, port = caller.sock.getsockname()
    (shown,) = (each for each in tools.ask("/connections").json["connections"] if each["src.addr"] == f"{host}:{port}")
    assert (shown["src.identity"], shown["listener"], shown["requests"], shown["busy"]) == (PLANNER, "tools", 1, False)
    assert shown["cert.serial"]


@pytest.mark.threat(25)
def test_threat_25_nothing_else_can_be_asked(shared: Pair) -> None:
    tools = shared.tools
    for path in ("/", "/config/", "/Config", "//config", "/config%2f", "/../config", "/drain/"):
        assert tools.ask(path).status in {400, 404}, path
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert tools.ask("/config", method).status == 405, method
    assert tools.ask("/drain").status == 405
    assert tools.ready


def test_a_silent_client_takes_nothing_from_others(shared: Pair) -> None:
    silent = [UnixConnection(shared.tools.socket) for _ in range(20)]
    for connection in silent:
        connection.connect()
    assert shared.tools.ask("/ready").status == 200
    for connection in silent:
        connection.close()
