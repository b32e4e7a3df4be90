"""Ensures that a TPM that hangs, is gone or is reset costs handshakes and nothing else, and that all mends itself.

Each trouble is seen from outside: what callers get, what the log and `/ready` say, and that the process still ends when it
is told to.
"""

from __future__ import annotations

import signal
import socket
import ssl
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.eventually import eventually
from tests.support.keyed import key_in_tpm, name_tpm_key
from tests.support.processes import Pending, SSLContext, ask, replace_file
from tests.support.swtpm import SIGN, SlowRelay, Swtpm

if TYPE_CHECKING:
    import http.client
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site

pytestmark = pytest.mark.needs("swtpm", "tpm2-pytss")


@pytest.fixture
def tpm() -> Iterator[Swtpm]:
    with Swtpm() as made:
        yield made


@pytest.fixture
def tools(site: Site, backend: Backend, tpm: Swtpm) -> Sidecar:
    made = site.tools(backend, limits={"sign_timeout": "500ms"}, drain_timeout="2s")
    key_in_tpm(site, made, tpm)
    return made.start()


def refused(site: Site, tools: Sidecar) -> None:
    """Makes a full handshake that fails."""
    with suppress(OSError):  # an alert, a reset or an end: which one is not what is tested
        answer = ask(site.caller(tools.port()), "GET", "/refused")
        pytest.fail(f"answered: {answer.status}")


def reason(tools: Sidecar) -> tuple[int, Any]:
    answer = tools.ask("/ready")
    return answer.status, answer.json.get("reason")


def await_mended(site: Site, tools: Sidecar) -> None:
    eventually(lambda: tools.ready, "the sidecar to be ready again")
    assert ask(site.caller(tools.port()), "GET", "/again").status == 200
    tools.await_stderr("our key signs again")


def resuming(site: Site, tools: Sidecar) -> tuple[http.client.HTTPSConnection, ssl.SSLSession, SSLContext]:
    """Makes a connection, and what another one needs to resume its session."""
    connection = site.caller(tools.port())
    assert ask(connection, "GET", "/open").status == 200
    assert isinstance(connection.sock, ssl.SSLSocket)
    session = connection.sock.session
    assert session is not None
    return connection, session, connection.sock.context


def test_a_tpm_that_hangs(site: Site, tools: Sidecar, tpm: Swtpm) -> None:
    connection, session, context = resuming(site, tools)
    tpm.hang()
    begun = time.monotonic()
    refused(site, tools)
    assert time.monotonic() - begun < 5  # not the 10 s of the handshake's own limit
    assert tools.await_log(event="refused", error="signer_timeout")
    eventually(lambda: reason(tools) == (503, "signer_timeout"), "/ready to name the trouble")
    assert tools.ask("/live").status == 200
    tools.await_stderr("our key does not sign")
    # Others are refused at once, while open connections and resumed sessions need no signature.
    refused(site, tools)
    assert ask(connection, "GET", "/still-open").status == 200
    with (
        socket.create_connection(("127.0.0.1", tools.port()), 10) as plain,
        context.wrap_socket(plain, session=session) as resumed,
    ):
        resumed.sendall(b"GET /resumed HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert resumed.recv(12) == b"HTTP/1.1 200"
        assert resumed.session_reused
    tpm.resume()
    await_mended(site, tools)


def test_a_tpm_that_hangs_does_not_keep_the_process(site: Site, tools: Sidecar, tpm: Swtpm) -> None:
    tpm.hang()
    refused(site, tools)
    begun = time.monotonic()
    tools.signal(signal.SIGTERM)
    assert tools.exit_code() == 0
    assert time.monotonic() - begun < 2 + 3  # the drain's time, and the machine's
    assert "Traceback" not in tools.stderr


def test_a_tpm_that_is_gone(site: Site, tools: Sidecar, tpm: Swtpm) -> None:
    connection, *_ = resuming(site, tools)
    tpm.kill()
    refused(site, tools)
    assert tools.await_log(event="refused", error="signer_unavailable")
    eventually(lambda: reason(tools) == (503, "signer_unavailable"), "/ready to name the trouble")
    assert ask(connection, "GET", "/still-open").status == 200
    tpm.start()
    await_mended(site, tools)
    assert tools.stop() == 0
    assert tpm.transient_handles() == []


def test_a_tpm_that_is_reset_in_the_middle_of_traffic(site: Site, tools: Sidecar, tpm: Swtpm) -> None:
    for turn in range(5):
        assert ask(site.caller(tools.port()), "GET", f"/before-{turn}").status == 200
        tpm.restart()
        assert ask(site.caller(tools.port()), "GET", f"/after-{turn}").status == 200
    assert not tools.log(event="refused")
    assert tools.ready


def test_outbound_requests_are_503_while_the_tpm_is_gone(site: Site, backend: Backend, tpm: Swtpm) -> None:
    tools = site.tools(backend).start()
    planner = site.planner(tools)
    key_in_tpm(site, planner, tpm)
    planner.start()
    tpm.kill()
    answer = ask(site.agent(planner), "GET", "/x")
    assert (answer.status, answer.json["error"]) == (503, "signing_failed")
    (line,) = planner.await_log(event="request", http_path="/x")
    assert line["error"] == "signer_unavailable"
    assert not tools.log(event="request")
    tpm.start()
    eventually(lambda: planner.ready, "the sidecar to be ready again")
    assert ask(site.agent(planner), "GET", "/y").status == 200


def test_a_flood_of_handshakes_meets_the_queue_limit_and_the_slow_tpm_no_more_than_it_must(
    site: Site, backend: Backend, tpm: Swtpm
) -> None:
    with SlowRelay(tpm) as relay:
        tools = site.tools(backend, limits={"handshake_queue": 4})
        key_in_tpm(site, tools, tpm, relay=relay)
        tools.start()
        relay.delay = 0.3
        callers = [Pending(site.caller(tools.port()), "GET", f"/{n}") for n in range(24)]
        eventually(lambda: tools.metric("limit_hits_total", limit="handshake_queue") > 0, "the limit to be met")
        assert tools.ask("/live").status == 200
        eventually(lambda: all(caller.over for caller in callers), "all callers to have an end")
        assert tools.await_log(event="refused", error="limit_handshake_queue")
        served = len(backend.requests)
        assert 4 <= served < 24
        assert relay.commands[SIGN] == 1 + served  # the self-test; who was refused cost the TPM nothing
        relay.delay = 0.0
        assert ask(site.caller(tools.port()), "GET", "/after").status == 200


# -- at the start


def launched(tools: Sidecar) -> tuple[int, str]:
    tools.launch()
    return tools.exit_code(), tools.stderr


def test_no_tpm_at_the_start(site: Site, backend: Backend, tpm: Swtpm) -> None:
    tools = site.tools(backend)
    key_in_tpm(site, tools, tpm)
    tpm.kill()
    code, said = launched(tools)
    assert code == 1
    assert "TPM" in said
    assert "Traceback" not in said
    assert not tools.socket.exists()


def test_a_tpm_that_hangs_at_the_start(site: Site, backend: Backend, tpm: Swtpm) -> None:
    tools = site.tools(backend, limits={"sign_timeout": "100ms"})
    key_in_tpm(site, tools, tpm)
    tpm.hang()
    code, said = launched(tools)
    assert code == 1
    assert "did not answer within" in said


def test_a_wrong_pin_at_the_start_is_tried_once(site: Site, backend: Backend, tpm: Swtpm) -> None:
    tools = site.tools(backend)
    key_in_tpm(site, tools, tpm, pin=b"right")
    replace_file(site.path("tools.pin"), b"gues5ed\n")
    code, said = launched(tools)
    assert code == 2  # whoever restarts what failed must not lock the TPM
    assert "PIN" in said
    assert "gues5ed" not in said
    assert tpm.lockout_counter() == 1


def test_another_key_than_the_certificate_says(site: Site, backend: Backend, tpm: Swtpm) -> None:
    tools = site.tools(backend)
    file: Path = key_in_tpm(site, tools, tpm)
    first = site.path("tools.crt").read_bytes()
    file.unlink()
    site.identity("tools")
    key_in_tpm(site, tools, tpm)
    replace_file(site.path("tools.crt"), first)
    code, said = launched(tools)
    assert code == 2
    assert "the key is not the one in the certificate" in said


def test_a_copyable_key_is_refused_unless_it_is_called_unsafe(site: Site, backend: Backend, tpm: Swtpm) -> None:
    from tests.support.ca import keypair
    from tests.support.keyed import known_key_in_tpm

    tools = site.tools(backend)
    known_key_in_tpm(site, tools, tpm, keypair("a known key"))
    name_tpm_key(site, tools, tpm.tcti)
    code, said = launched(tools)
    assert code == 2
    assert "unsafe-copyable=true" in said
    name_tpm_key(site, tools, tpm.tcti, copyable=True)
    tools.start()
    assert ask(site.caller(tools.port()), "GET", "/x").status == 200
    assert tools.ask("/certs").json["certs"][0]["key_protection"] == "software"
