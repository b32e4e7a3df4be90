"""Ensures that sidecars whose key is behind one signer service speak mutual TLS, and what the service's troubles cost them.

The service has its key in a TPM, or in a file; the sidecars have the name of a socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.eventually import eventually
from tests.support.processes import COMMAND, ask

if TYPE_CHECKING:
    import http.client
    from collections.abc import Callable, Iterator

    from cryptography.hazmat.primitives.asymmetric import ec

    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site

NOBODY = 65534
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="to start a process as another user needs CAP_SETUID: run the tests as root"
)


class Service:
    """One `sidecar signer`, started again as often as a test wants."""

    def __init__(self, site: Site, key: str, public_key: ec.EllipticCurvePublicKey, *options: str) -> None:
        self.site, self.public_key = site, public_key
        self.path, self.out, self.err = site.path("s.sock"), site.path("signer.out"), site.path("signer.err")
        self.command = (*COMMAND, "signer", "--listen", f"unix:{self.path}", "--key", key, *options)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, "never started"
        return self.process

    @property
    def said(self) -> str:
        return self.err.read_text() if self.err.exists() else ""

    def start(self) -> Service:
        before = self.said.count("the signer service is ready")
        with self.out.open("ab") as out, self.err.open("ab") as err:
            process = self.site.process(*self.command, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        self.process = process
        eventually(
            lambda: process.poll() is not None or self.said.count("the signer service is ready") > before,
            "the service to be ready",
        )
        assert process.poll() is None, self.said
        return self

    def kill(self) -> None:
        self.running.kill()
        self.running.wait()

    def hang(self) -> None:
        self.running.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.running.pid, os.WSTOPPED)

    def resume(self) -> None:
        self.running.send_signal(signal.SIGCONT)

    def uses(self, **wanted: object) -> list[dict[str, Any]]:
        """The lines that it wrote of signatures."""
        lines = [json.loads(line) for line in self.out.read_text().splitlines()]
        return [line for line in lines if {"event": "sign", **wanted}.items() <= line.items()]

    def serves(self, sidecar: Sidecar) -> Sidecar:
        """Has the sidecar use its key, under a certificate for it, and nothing else."""
        from tests.support.keyed import certify

        certify(self.site, sidecar, self.public_key)
        self.site.path(f"{sidecar.name}.key").unlink()
        sidecar.config["identity"]["key"] = f"signer:unix:{self.path}"
        return sidecar


@contextlib.contextmanager
def with_file(site: Site) -> Iterator[Service]:
    key = site.identity("signer").key.public_key()
    yield Service(site, "signer.key", key)  # type: ignore[arg-type]  # the site makes EC keys


@contextlib.contextmanager
def with_tpm(site: Site) -> Iterator[Service]:
    from tests.support.swtpm import HANDLE, Swtpm, make_key

    with Swtpm() as tpm:
        made = make_key(tpm, handle=HANDLE)
        opened = made.open()
        public_key = opened.public_key
        opened.close()
        yield Service(site, str(made.spec), public_key)


@pytest.fixture
def service(site: Site) -> Iterator[Service]:
    with with_file(site) as made:
        yield made.start()


@pytest.fixture
def tools(site: Site, backend: Backend, service: Service) -> Sidecar:
    return service.serves(site.tools(backend, limits={"sign_timeout": "500ms"}, drain_timeout="2s")).start()


@pytest.mark.parametrize(
    ("kind", "behind"),
    [
        pytest.param(with_tpm, "tpm", marks=pytest.mark.needs("swtpm", "tpm2-pytss"), id="tpm"),
        pytest.param(with_file, "software", id="software"),
    ],
)
def test_two_sidecars_share_a_service(
    site: Site,
    backend: Backend,
    kind: Callable[[Site], contextlib.AbstractContextManager[Service]],
    behind: str,
) -> None:
    with kind(site) as service:
        service.start()
        tools = service.serves(site.tools(backend))
        planner = service.serves(site.planner(tools))
        for each in (tools, planner):
            each.start()
        assert ask(site.agent(planner), "GET", "/hello").status == 200
        for each in (planner, tools):
            (line,) = each.await_log(event="request", http_path="/hello")
            assert line["key.protection"] == "remote"
            assert each.ask("/certs").json["certs"][0]["key_protection"] == "remote"
            assert "protection=remote" in each.stderr
            assert each.metric("sign_duration_seconds_count", protection="remote") == 1
        eventually(lambda: len(service.uses(purpose="tls13-certificate-verify")) == 2, "both uses to be written down")
        assert f"protection={behind}" in service.said
        pids = {line["peer.pid"] for line in service.uses(purpose="tls13-certificate-verify", result="ok")}
        assert pids == {planner.running.pid, tools.running.pid}
        assert (planner.stop(), tools.stop()) == (0, 0)


# -- trouble ------------------------------------------------------------------------------------------------------------


def refused(site: Site, tools: Sidecar) -> None:
    """Makes a full handshake that fails."""
    with contextlib.suppress(OSError):  # an alert, a reset or an end: which one is not what is tested
        answer = ask(site.caller(tools.port()), "GET", "/refused")
        pytest.fail(f"answered: {answer.status}")


def reason(tools: Sidecar) -> tuple[int, Any]:
    answer = tools.ask("/ready")
    return answer.status, answer.json.get("reason")


def opened(site: Site, tools: Sidecar) -> http.client.HTTPSConnection:
    connection = site.caller(tools.port())
    assert ask(connection, "GET", "/open").status == 200
    return connection


def await_mended(site: Site, tools: Sidecar) -> None:
    eventually(lambda: tools.ready, "the sidecar to be ready again")
    assert ask(site.caller(tools.port()), "GET", "/again").status == 200
    tools.await_stderr("our key signs again")


def test_a_service_that_is_killed_and_started_again(site: Site, tools: Sidecar, service: Service) -> None:
    connection = opened(site, tools)
    service.kill()
    refused(site, tools)
    assert tools.await_log(event="refused", error="signer_unavailable")
    eventually(lambda: reason(tools) == (503, "signer_unavailable"), "/ready to name the trouble")
    assert tools.ask("/live").status == 200
    assert ask(connection, "GET", "/still-open").status == 200
    service.start()
    await_mended(site, tools)
    assert tools.stop() == 0
    assert "Traceback" not in tools.stderr


def test_a_service_that_is_restarted_between_two_handshakes_is_not_noticed(
    site: Site, tools: Sidecar, service: Service
) -> None:
    opened(site, tools)
    service.kill()
    service.start()
    opened(site, tools)
    assert not tools.log(event="refused")


def test_a_service_that_hangs(site: Site, tools: Sidecar, service: Service) -> None:
    connection = opened(site, tools)
    service.hang()
    begun = time.monotonic()
    refused(site, tools)
    assert time.monotonic() - begun < 5  # not the 10 s of the handshake's own limit
    assert tools.await_log(event="refused", error="signer_timeout")
    eventually(lambda: reason(tools) == (503, "signer_timeout"), "/ready to name the trouble")
    assert ask(connection, "GET", "/still-open").status == 200
    service.resume()
    await_mended(site, tools)


def test_a_service_that_hangs_does_not_keep_the_process(site: Site, tools: Sidecar, service: Service) -> None:
    service.hang()
    refused(site, tools)
    begun = time.monotonic()
    assert tools.stop() == 0
    assert time.monotonic() - begun < 2 + 3  # the drain's time, and the machine's
    assert "Traceback" not in tools.stderr


def test_outbound_requests_are_503_while_the_service_is_gone(site: Site, backend: Backend, service: Service) -> None:
    tools = site.tools(backend).start()
    planner = service.serves(site.planner(tools)).start()
    service.kill()
    answer = ask(site.agent(planner), "GET", "/x")
    assert (answer.status, answer.json["error"]) == (503, "signing_failed")
    (line,) = planner.await_log(event="request", http_path="/x")
    assert line["error"] == "signer_unavailable"
    service.start()
    eventually(lambda: planner.ready, "the sidecar to be ready again")
    assert ask(site.agent(planner), "GET", "/y").status == 200


# -- at the start -------------------------------------------------------------------------------------------------------


def test_no_service_at_the_start(site: Site, backend: Backend, service: Service) -> None:
    tools = service.serves(site.tools(backend))
    service.kill()
    tools.launch()
    assert tools.exit_code() == 1
    assert f"the signer service at {service.path} cannot be reached" in tools.stderr
    assert f"sidecar signer --listen unix:{service.path}" in tools.stderr
    assert not tools.socket.exists()


def test_a_service_that_hangs_at_the_start(site: Site, backend: Backend, service: Service) -> None:
    tools = service.serves(site.tools(backend, limits={"sign_timeout": "100ms"}))
    service.hang()
    tools.launch()
    assert tools.exit_code() == 1
    assert "did not answer within" in tools.stderr


@needs_root
@pytest.mark.needs("setpriv")
def test_a_proxy_whose_uid_is_not_allowed(site: Site, backend: Backend) -> None:
    """The service serves root and one uid that is not the proxy's; its socket is open to all, and the uid decides."""
    with with_file(site) as service:
        service.command += ("--uid", str(NOBODY - 1))
        service.start()
        tools = service.serves(site.tools(backend))
        tools.write()
        site.folder.chmod(0o777)
        for name in ("tools.yaml", "tools.crt", "ca.crt"):
            os.chown(site.path(name), NOBODY, NOBODY)
        # That user may not write down what was covered.
        environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        environ["PYTHONDONTWRITEBYTECODE"] = "1"
        # He may be unable to read the program where it lies; the capability is for that, and makes him nobody else.
        capability = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
        done = subprocess.run(
            [
                *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *capability),
                *(*COMMAND, "run", str(tools.file)),
            ],
            env=environ,
            cwd=site.folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        assert f"the signer service at {service.path} broke off" in done.stderr
        assert "--uid" in done.stderr
        assert "Traceback" not in done.stderr
        assert f"uid={NOBODY}" in service.said
        assert service.uses(**{"peer.uid": NOBODY}) == []
