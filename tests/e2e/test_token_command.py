"""Ensures that `sidecar token FILE NAME` prints a fresh token of the running proxy, to those who may have it and nowhere else.

The proxy gives tokens of sources with ``helper: true`` alone, over its admin socket, to a POST by a user whom that socket
serves. What it gave stands in no log, no message, and no other answer. And the command believes no process of another
user, wherever that one put its socket.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.eventually import eventually
from tests.support.processes import COMMAND, LOOPBACK, PLANNER, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes import Sidecar, Site

AUDIENCE = "https://tools.example.org"
NOBODY = 65534
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="to become another user needs CAP_SETUID: run the tests as root"
)
#: Listens at a path as another user, and prints how many bytes it was told.
IMPOSTOR = """
import os, socket, sys
path, uid = sys.argv[1], int(sys.argv[2])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
sock = socket.socket(socket.AF_UNIX)
sock.bind(path)
os.chmod(path, 0o666)
sock.listen()
print("listening", flush=True)
asked, _ = sock.accept()
print(len(asked.recv(4096)), flush=True)
"""
#: Gets a token as root, which loads all that is needed: the other user may not see the interpreter's folder. Then tries
#: it as that user.
AS_USER = """
import contextlib, io, os, sys
from sidecar.cli import main
file, uid = sys.argv[1], int(sys.argv[2])
with contextlib.redirect_stdout(io.StringIO()) as printed:
    assert main(["token", file, "mesh"]) == 0 and printed.getvalue().count(".") == 2
os.setgroups([]); os.setgid(uid); os.setuid(uid)
sys.exit(main(["token", file, "mesh"]))
"""


def source(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "self-signed", "audience": AUDIENCE} | more


def helper(site: Site, *sources: dict[str, Any], **parts: Any) -> Sidecar:
    """A planner with these sources, that no entry uses."""
    return site.planner(free_port(), tokens=list(sources), **parts)


def claims(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a JWT."""
    parts = token.split(".")
    assert len(parts) == 3
    header, content = (json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in parts[:2])
    return header, content


@pytest.mark.threat(21)
def test_threat_21_a_token_is_printed_and_stands_nowhere_else(site: Site) -> None:
    planner = helper(site, source("mesh", helper=True)).start()
    first, second = (site.command("token", str(planner.file), "mesh") for _ in range(2))
    assert (first.returncode, first.stderr) == (0, "")
    token = first.stdout.removesuffix("\n")
    header, content = claims(token)
    assert header["typ"] == "sidecar+jwt"
    assert (content["iss"], content["sub"], content["aud"]) == (PLANNER, PLANNER, AUDIENCE)
    assert claims(second.stdout)[1]["jti"] != content["jti"], "each is fresh"
    shown = planner.ask("/tokens").json["tokens"]
    assert [(each["name"], each["kind"], each["helper"]) for each in shown] == [("mesh", "self-signed", True)]
    told = [planner.ask(path).body for path in ("/config", "/tokens", "/certs", "/connections", "/metrics")]
    assert planner.stop() == 0
    told += [planner.stdout.encode(), planner.stderr.encode(), planner.log_file.read_bytes()]
    everything = b"".join(told)
    assert len(everything) > 2000
    scraps = [part[at : at + 30].encode() for part in token.split(".") for at in range(0, len(part) - 30, 30)]
    assert [scrap for scrap in scraps if scrap in everything] == []
    assert content["jti"].encode() not in everything


def test_by_post_alone_and_under_its_own_name(site: Site) -> None:
    health = f"{LOOPBACK}:{free_port()}"
    planner = helper(site, source("mesh", helper=True), source("quiet"), health={"listen": health}).start()
    assert planner.ask("/tokens/mesh", "POST").status == 200
    for method in ("GET", "HEAD", "PUT"):
        answer = planner.ask("/tokens/mesh", method)
        assert (answer.status, answer.fields["Allow"]) == (405, "POST"), method
    for name in ("quiet", "none", "mesh/", "Mesh", "", "../config"):
        assert planner.ask(f"/tokens/{name}", "POST").status in {400, 404}, name
    connection = site.at(health)
    connection.request("POST", "/tokens/mesh")
    assert connection.getresponse().status == 404


def test_a_source_that_is_no_helper(site: Site) -> None:
    planner = helper(site, source("mesh")).start()
    done = site.command("token", str(planner.file), "mesh")
    assert (done.returncode, done.stdout) == (1, "")
    assert "helper: true" in done.stderr
    # What a file says does not decide: it has to be in force.
    other = site.path("other.yaml")
    other.write_text(yaml.safe_dump(planner.config | {"tokens": [source("mesh", helper=True)]}))
    done = site.command("token", str(other), "mesh")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the running proxy knows no source mesh with helper: true" in done.stderr


def test_a_source_that_has_no_token(site: Site) -> None:
    planner = helper(site, {"name": "pod", "kind": "file", "path": str(site.path("absent")), "helper": True}).start()
    done = site.command("token", str(planner.file), "pod")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no token of pod now: token_file_unusable" in done.stderr
    assert "/tokens" in done.stderr
    planner.await_stderr("token_file_unusable")


def test_a_proxy_that_does_not_run(site: Site) -> None:
    planner = helper(site, source("mesh", helper=True))
    planner.write()
    for _ in range(2):
        done = site.command("token", str(planner.file), "mesh")
        assert (done.returncode, done.stdout) == (1, "")
        assert f"no sidecar answers at {planner.socket}" in done.stderr
        assert f"sidecar run {planner.file}" in done.stderr
        planner.start().kill()  # leaves its socket behind
        assert planner.socket.is_socket()


def test_a_name_that_is_not_there(site: Site) -> None:
    planner = helper(site, source("mesh", helper=True)).start()
    done = site.command("token", str(planner.file), "mush")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there are: mesh" in done.stderr


def test_a_command_that_is_ended_ends_its_program(site: Site) -> None:
    """The source is a program that never ends: it does not outlive whoever asked for the token."""
    pids, script = site.path("pids"), site.path("never")
    script.write_text(f"#!/bin/sh\necho $$ >> '{pids}'\nexec sleep 600\n")
    script.chmod(0o755)
    never = {"name": "never", "kind": "exec", "command": [str(script)], "timeout": "5m", "helper": True}
    planner = helper(site, never).start()
    asking = site.process(*COMMAND, "token", str(planner.file), "never", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    eventually(lambda: pids.exists() and pids.read_text().endswith("\n"), "the program to run")
    pid = int(pids.read_text())
    asking.kill()
    eventually(lambda: not alive(pid), "the program to be ended")
    assert planner.ready


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.threat(25)
@needs_root
def test_threat_25_another_user_gets_no_token(site: Site) -> None:
    admin = {"listen": f"unix:{site.path('planner.sock')}"}
    planner = helper(site, source("mesh", helper=True), admin=admin).start()
    site.folder.chmod(0o711)
    planner.file.chmod(0o644)
    denied = as_user(NOBODY, planner.file)
    assert (denied.returncode, denied.stdout) == (1, "")
    assert f"may not use the administration socket {planner.socket}, which is uid 0's" in denied.stderr
    planner.socket.chmod(0o666)
    closed = as_user(NOBODY, planner.file)
    assert (closed.returncode, closed.stdout) == (1, "")
    assert "closed the connection without an answer" in closed.stderr
    planner.await_stderr(f"the admin socket refused a connection uid={NOBODY}")


@pytest.mark.threat(25)
@needs_root
def test_threat_25_another_user_s_process_is_not_believed(site: Site) -> None:
    planner = helper(site, source("mesh", helper=True))
    planner.write()
    site.folder.chmod(0o777)
    impostor = site.process(
        sys.executable, "-I", "-c", IMPOSTOR, str(planner.socket), str(NOBODY), stdout=subprocess.PIPE
    )
    assert impostor.stdout is not None
    assert impostor.stdout.readline() == b"listening\n"
    done = site.command("token", str(planner.file), "mesh")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"uid {NOBODY}: it is not believed" in done.stderr
    assert impostor.stdout.readline() == b"0\n", "it was asked nothing"


def as_user(uid: int, file: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command as another user, who can read the file and not what it names."""
    return subprocess.run(
        [sys.executable, "-c", AS_USER, str(file), str(uid)], capture_output=True, text=True, timeout=60, check=False
    )
