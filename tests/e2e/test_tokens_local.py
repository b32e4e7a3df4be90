"""Ensures that tokens that no issuer is asked for go along with requests: our own, a file's, a command's.

What rotates a file is another process, in the way of the kubelet: the file is a link into a folder that one rename swaps.
"""

from __future__ import annotations

import itertools
import shlex
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.eventually import eventually
from tests.support.issuer import RESOURCE
from tests.support.processes import PLANNER, replace_file
from tests.support.token_pair import SOURCE, Agent, TokenPair, claims

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes import Site

#: What a projected volume is to a pod: `token` -> `..data/token`, `..data` -> `..<n>`; a line is one more token.
KUBELET = """
import os, pathlib, sys
volume = pathlib.Path(sys.argv[1])
volume.mkdir()
for number, line in enumerate(sys.stdin):
    new = volume / f"..{number}"
    new.mkdir()
    (new / "token").write_text(line.removesuffix("\\n"))
    (volume / "..data_tmp").symlink_to(new.name)
    (volume / "..data_tmp").replace(volume / "..data")
    if not number:
        (volume / "token").symlink_to("..data/token")
    print("swapped", flush=True)
"""


class Kubelet:
    """Another process that rotates the token in ``volume``."""

    def __init__(self, site: Site, volume: Path) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process: subprocess.Popen[Any] = site.process(sys.executable, "-c", KUBELET, str(volume), **pipes)

    def rotate(self, token: str) -> None:
        """Returns when the new token is in place."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(token + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "swapped\n"


def unchecked(site: Site, source: dict[str, Any]) -> TokenPair:
    """A pair in which the agent behind gets the token as it is: the tools' sidecar asks for none."""
    pair = TokenPair(site, source)
    pair.tools.config["inbound"][0]["allow"] = [{"caller": PLANNER}]
    return pair


@pytest.mark.threat(22)
def test_a_self_signed_token(site: Site) -> None:
    pair = TokenPair(site)
    pair.rule["pass_token"] = True
    pair.start()
    for path in ("/one", "/two"):
        assert pair.ask(path, headers={"Authorization": "Bearer of-the-agent"}).status == 200
    (sent,) = set(pair.sent("/one") + pair.sent("/two"))
    said = claims(sent)
    assert (said["iss"], said["sub"], said["aud"]) == (PLANNER, PLANNER, RESOURCE)
    assert said["cnf"] == {"x5t#S256": pair.thumbprint()}
    assert 0 < said["exp"] - said["iat"] <= 300
    _, tools = pair.lines("/one")
    assert (tools["token.issuer"], tools["token.subject"], tools["token.id"]) == (PLANNER, PLANNER, said["jti"])
    assert pair.held()["binding"] == "bound"
    assert pair.refreshed() == 1
    stolen = pair.call("other", sent, "/stolen")
    assert stolen.status == 403, "other is not named by any rule, whatever it brings"
    assert pair.call("planner", sent, "/owner").status == 200


def test_a_self_signed_token_for_another_service(site: Site) -> None:
    pair = TokenPair(site)
    pair.source["audience"] = "https://other.internal"
    pair.start()
    answer = pair.ask("/x")
    assert answer.status == 401
    assert answer.fields["WWW-Authenticate"] == 'Bearer realm="sidecar", error="invalid_token"'
    lines = pair.tools.await_log(2, event="request", http_path="/x")
    assert {line["decision.reason"] for line in lines} == {"token_audience"}
    assert pair.upstream.requests == []


def test_a_new_token_in_a_file_goes_along_within_a_second(site: Site) -> None:
    """No request fails meanwhile, and none goes back to the token before."""
    pair = unchecked(site, {"kind": "file", "path": "volume/token"})
    kubelet = Kubelet(site, site.path("volume"))
    kubelet.rotate("the-first-one")
    pair.start()
    agent, tokens = Agent(pair), ["the-first-one", "the-second-one", "the-third-one"]
    agent.await_more()
    for token in tokens[1:]:
        kubelet.rotate(token)
        rotated = time.monotonic()
        eventually(lambda wanted=token: sent(pair)[-1] == f"Bearer {wanted}", "the new token to be sent", 5)
        assert time.monotonic() - rotated < 1 + 1  # the second, and the machine's
    assert set(agent.stop()) == {200}
    assert [token for token, _ in itertools.groupby(sent(pair))] == [f"Bearer {token}" for token in tokens]
    assert pair.refreshed() == 3
    assert pair.held()["binding"] == "static"


def sent(pair: TokenPair) -> list[str]:
    """The tokens that the agent behind got, in order."""
    return [value for request in list(pair.upstream.requests) for value in request.fields("Authorization")]


def test_a_file_that_goes_away_and_comes_back(site: Site) -> None:
    pair = unchecked(site, {"kind": "file", "path": "token"}).start()
    answer = pair.ask("/none")
    assert (answer.status, answer.json["error"]) == (503, "token_unavailable")
    (planner,) = pair.planner.await_log(event="request", http_path="/none")
    assert planner["error"] == "token_file_unusable"
    assert pair.upstream.requests == []
    replace_file(site.path("token"), b"found-at-last\n")
    eventually(lambda: pair.ask("/some").status == 200, "the token to be sent")
    assert pair.sent("/some") == ["Bearer found-at-last"]
    site.path("token").unlink()
    eventually(lambda: pair.ask("/gone").status == 503, "what was withdrawn not to be sent any more", 5)


@pytest.mark.threat(20)
def test_threat_20_a_file_cannot_write_a_second_field(site: Site) -> None:
    pair = unchecked(site, {"kind": "file", "path": "token"})
    replace_file(site.path("token"), b"innocent\r\nX-Admin: yes")
    pair.start()
    assert pair.ask("/x").status == 503
    (planner,) = pair.planner.await_log(event="request", http_path="/x")
    assert planner["error"] == "token_unusable"
    assert "innocent" not in pair.planner.stderr
    assert pair.upstream.requests == []


def script(site: Site, line: str) -> list[str]:
    path = site.path("helper.sh")
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return ["./helper.sh"]


@pytest.mark.parametrize("cache", [True, False])
def test_a_command_is_run_once_or_each_time(site: Site, cache: bool) -> None:
    """``cache: none`` is for those who want no token at rest in memory."""
    runs = site.path("runs")
    command = script(site, f"echo run >> {shlex.quote(str(runs))}; wc -l < {shlex.quote(str(runs))} | tr -d ' '")
    source = {"kind": "exec", "command": command}
    pair = unchecked(site, source if cache else source | {"cache": "none"}).start()
    for _ in range(3):
        assert pair.ask("/x").status == 200
    assert pair.sent("/x") == ["Bearer 1", "Bearer 1" if cache else "Bearer 2", "Bearer 1" if cache else "Bearer 3"]
    assert pair.refreshed() == (1 if cache else 3)
    assert pair.held()["binding"] == ("static" if cache else None)


def test_a_command_as_kubectl_runs_them(site: Site) -> None:
    credential = '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "from-a-plugin"}}'
    pair = unchecked(site, {"kind": "exec", "command": script(site, f"echo {shlex.quote(credential)}")})
    pair.planner.config["outbound"][0]["token_header"] = "X-Api-Key"
    pair.start()
    assert pair.ask("/x", headers={"Authorization": "Bearer own", "X-API-Key": "own"}).status == 200
    (request,) = pair.upstream.requests
    assert request.fields("X-Api-Key") == ["from-a-plugin"]
    assert request.fields("Authorization") == ["Bearer own"], "not the field of this entry's token"


@pytest.mark.parametrize(
    ("line", "code"), [("exit 3", "token_command_failed"), ("exec sleep 60", "token_command_timeout")]
)
def test_a_command_that_gives_no_token(site: Site, line: str, code: str) -> None:
    pair = unchecked(site, {"kind": "exec", "command": script(site, line), "timeout": "300ms"}).start()
    answer = pair.ask("/x")
    assert (answer.status, answer.json["error"]) == (503, "token_unavailable")
    (planner,) = pair.planner.await_log(event="request", http_path="/x")
    assert planner["error"] == code
    assert pair.refreshed(code) == 1
    assert (SOURCE, pair.held()["error"]) == (pair.status()["name"], code)
    assert pair.upstream.requests == []
