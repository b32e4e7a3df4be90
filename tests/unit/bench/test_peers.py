"""The peers' configurations: the same certificates, TLS 1.3 alone, both sides proven, a log in a file."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.keys.kind import OwnKey
from bench.peers import envoy, ghostunnel, nginx
from bench.peers.haproxy import Haproxy
from bench.peers.peer import Work
from bench.peers.sidecar import Sidecar, rules
from bench.peers.table import PEERS
from bench.programs import find, first_line, lacking
from bench.site import Running
from sidecar.config.load import load
from sidecar.errors import ConfigurationError

if TYPE_CHECKING:
    from bench.certificates import Certificates
    from bench.peers.peer import Peer
    from bench.processes import Crew
    from bench.site import Site

UPSTREAM, INBOUND = 8_123, 8_443


class Recorder:
    """Takes the place of a site: notes what would be started, and starts nothing."""

    def __init__(self, crew: Crew, certificates: Certificates) -> None:
        self.crew, self.certificates = crew, certificates
        self.command: list[str] = []

    def proxy(self, name: str, port: int, *command: object) -> Running:
        self.command = [str(word) for word in command]
        return Running(port, ())

    def file(self, name: str, text: str) -> Path:
        path = self.crew.path(name)
        path.write_text(text)
        return path

    @property
    def text(self) -> str:
        """The whole command line, and what stands in the files that it names."""
        files = [Path(word) for word in self.command if word.startswith(str(self.crew.folder))]
        return " ".join([*self.command, *(file.read_text() for file in files if file.is_file())])


@pytest.fixture
def recorder(site: Site, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setenv("GHOSTUNNEL", "/opt/ghostunnel")
    monkeypatch.setenv("ENVOY", "/opt/envoy")
    return Recorder(site.crew, site.certificates)


WORKS = [(peer, work) for peer in PEERS.values() for work in Work if peer.missing(work) is None or work is Work.TCP]
TLS_13 = {
    "nginx": "_protocols TLSv1.3;",
    "envoy": '"tls_minimum_protocol_version": "TLSv1_3"',
    "haproxy": "ssl-min-ver TLSv1.3",
    "stunnel": "sslVersion = TLSv1.3",
}
DEMANDS = {
    "nginx": "ssl_verify_client on;",
    "envoy": '"require_client_certificate": true',
    "haproxy": "verify required",
    "stunnel": "requireCert = yes",
    "ghostunnel": "--allow-uri spiffe://example.org/agent/planner/1",
}
LOGS = {
    "sidecar": '"access_log": "/',
    "nginx": "access.log",
    "envoy": "access_loggers.file.v3.FileAccessLog",
    "haproxy": "log stdout format raw",  # which is a file here
    "stunnel": "output = /",
}


@pytest.mark.parametrize(("peer", "work"), WORKS, ids=lambda value: value if isinstance(value, Work) else value.name)
class TestEverybody:
    def test_the_inbound_side_demands_certificates(self, peer: Peer, work: Work, recorder: Recorder) -> None:
        port = peer.inbound(recorder, work, UPSTREAM).port  # type: ignore[arg-type]
        assert str(port) in recorder.text
        assert str(UPSTREAM) in recorder.text
        assert str(recorder.certificates.folder / "tools") in recorder.text
        assert str(recorder.certificates.authority) in recorder.text
        assert DEMANDS.get(peer.name, "") in recorder.text
        assert TLS_13.get(peer.name, "") in recorder.text

    def test_the_outbound_side_has_the_callers_certificate(self, peer: Peer, work: Work, recorder: Recorder) -> None:
        peer.outbound(recorder, work, INBOUND)  # type: ignore[arg-type]
        assert str(INBOUND) in recorder.text
        assert str(recorder.certificates.folder / "planner") in recorder.text
        assert TLS_13.get(peer.name, "") in recorder.text

    def test_both_sides_write_an_access_log(self, peer: Peer, work: Work, recorder: Recorder) -> None:
        for start in (peer.inbound, peer.outbound):
            start(recorder, work, UPSTREAM)  # type: ignore[arg-type]
            assert LOGS.get(peer.name, "") in recorder.text

    def test_everything_is_on_the_loopback_interface(self, peer: Peer, work: Work, recorder: Recorder) -> None:
        for start in (peer.inbound, peer.outbound):
            start(recorder, work, UPSTREAM)  # type: ignore[arg-type]
            assert "0.0.0.0" not in recorder.text
            assert "127.0.0.1" in recorder.text


def test_envoy_names_the_caller_and_the_peer(recorder: Recorder) -> None:
    for work, kind in ((Work.HTTP, "filters.http.rbac"), (Work.TCP, "filters.network.rbac")):
        envoy.Envoy().inbound(recorder, work, UPSTREAM)  # type: ignore[arg-type]
        assert kind in recorder.text
        assert '"principal_name": {"prefix": "spiffe://example.org/agent/planner/"}' in recorder.text
        envoy.Envoy().outbound(recorder, work, INBOUND)  # type: ignore[arg-type]
        assert '"matcher": {"prefix": "spiffe://example.org/agent/tools/"}' in recorder.text


def test_haproxy_holds_events_back_unless_it_is_told(recorder: Recorder) -> None:
    Haproxy().inbound(recorder, Work.HTTP, UPSTREAM)  # type: ignore[arg-type]
    assert "http-no-delay" not in recorder.text
    Haproxy(no_delay=True).inbound(recorder, Work.HTTP, UPSTREAM)  # type: ignore[arg-type]
    assert "option http-no-delay" in recorder.text


# -- ourselves ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ours", [Sidecar(), Sidecar(rules=10_000), Sidecar(limits=(("connections", 6_000),))])
def test_our_own_configuration_has_no_fault(ours: Sidecar, recorder: Recorder) -> None:
    now = time.clock_gettime(time.CLOCK_REALTIME)
    for start in (ours.inbound, ours.outbound):
        start(recorder, Work.HTTP, UPSTREAM)  # type: ignore[arg-type]
        assert load(Path(recorder.command[-1]), now=now)


def test_our_own_key_is_that_of_the_accepting_side_alone(recorder: Recorder) -> None:
    certificate = recorder.certificates.certificate("tools")
    ours = Sidecar(own=OwnKey("tpm:handle=0x81000002", certificate, (("SOFTHSM2_CONF", "/a file"),)))
    ours.inbound(recorder, Work.HTTP, UPSTREAM)  # type: ignore[arg-type]
    assert recorder.command[:2] == ["env", "SOFTHSM2_CONF=/a file"]
    identity = json.loads(Path(recorder.command[-1]).read_text())["identity"]
    assert (identity["key"], identity["certificate"]) == ("tpm:handle=0x81000002", str(certificate))
    ours.outbound(recorder, Work.HTTP, INBOUND)  # type: ignore[arg-type]
    assert recorder.command[0] != "env"
    identity = json.loads(Path(recorder.command[-1]).read_text())["identity"]
    assert identity["key"] == str(recorder.certificates.key("planner"))


def test_the_check_of_our_configuration_can_fail(recorder: Recorder) -> None:
    Sidecar(limits=(("conections", 1),)).inbound(recorder, Work.HTTP, UPSTREAM)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        load(Path(recorder.command[-1]), now=time.clock_gettime(time.CLOCK_REALTIME))


def test_the_last_rule_alone_allows() -> None:
    made = rules(10, Work.HTTP)
    assert len(made) == 10
    assert made[-1] == {"caller": "spiffe://example.org/agent/planner/*"}
    for rule in made[:-1]:
        assert "stranger" in rule["caller"] or rule["paths"][0].startswith("/elsewhere/")
    assert any("paths" in rule for rule in made)
    assert not any("paths" in rule for rule in rules(10, Work.TCP))


def test_the_log_can_go_elsewhere(recorder: Recorder) -> None:
    Sidecar(access_log="/dev/null").inbound(recorder, Work.HTTP, UPSTREAM)  # type: ignore[arg-type]
    assert json.loads(Path(recorder.command[-1]).read_text())["access_log"] == "/dev/null"


# -- what is missing ----------------------------------------------------------------------------------------------------


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without any of the peers."""
    monkeypatch.setattr("bench.programs._SYSTEM", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(envoy, "INSTALLED", tmp_path / "none")
    monkeypatch.setattr(nginx, "STREAM_MODULE", tmp_path / "none")
    monkeypatch.delenv("GHOSTUNNEL", raising=False)
    monkeypatch.delenv("ENVOY", raising=False)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("name", "work", "told"),
    [
        ("nginx", Work.HTTP, "nginx is not installed: apt-get install nginx-light"),
        ("nginx", Work.TCP, "nginx has no stream module: apt-get install libnginx-mod-stream"),
        ("haproxy", Work.HTTP, "haproxy is not installed: apt-get install haproxy"),
        ("stunnel", Work.TCP, "stunnel is not installed: apt-get install stunnel4"),
        ("ghostunnel", Work.TCP, "not in Debian: name a binary with GHOSTUNNEL=path"),
        ("envoy", Work.TCP, "envoy is not installed"),
    ],
)
def test_who_is_missing_says_how_to_get_it(name: str, work: Work, told: str) -> None:
    assert (PEERS[name].missing(work) or "").startswith(told)


@pytest.mark.usefixtures("bare")
def test_we_are_never_missing() -> None:
    assert PEERS["sidecar"].missing(Work.HTTP) is None


def test_a_path_that_is_no_program_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GHOSTUNNEL", str(tmp_path / "none"))
    assert ghostunnel.Ghostunnel().missing(Work.TCP) == f"GHOSTUNNEL={tmp_path / 'none'} is no program"
    monkeypatch.setenv("ENVOY", str(tmp_path / "none"))
    assert envoy.Envoy().missing(Work.HTTP) is not None


def test_tunnels_know_no_http() -> None:
    assert PEERS["stunnel"].missing(Work.HTTP) == "stunnel knows no HTTP"
    assert PEERS["ghostunnel"].missing(Work.HTTP) == "ghostunnel knows no HTTP"


# -- programs -----------------------------------------------------------------------------------------------------------


def test_programs_are_found_and_speak() -> None:
    assert lacking("sh", package="dash") is None
    assert lacking("no-such-program", package="none") == "no-such-program is not installed: apt-get install none"
    assert find("sh") is not None
    assert first_line("sh", "-c", "echo; echo a; echo the b >&2", holding="b") == "the b"
    assert first_line("sh", "-c", "true") == "version unknown"


@pytest.mark.needs("nginx")
@pytest.mark.parametrize("side", ["inbound", "outbound"])
def test_nginx_takes_its_configuration(side: str, recorder: Recorder) -> None:
    getattr(nginx.Nginx(), side)(recorder, Work.HTTP, UPSTREAM)
    done = subprocess.run([*recorder.command, "-t"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
