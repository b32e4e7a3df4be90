"""Ensures that a key in a device is opened once for all workers, and that its process can die without ending them."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.keyed import key_in_token, key_in_tpm
from tests.support.processes import ask, replace_file
from tests.support.swtpm import HANDLE, Swtpm
from tests.support.workers import callers_of_all, children, connected, worker_pids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site
    from tests.support.softhsm import SoftHsm


@pytest.fixture
def tpm() -> Iterator[Swtpm]:
    with Swtpm() as made:
        yield made


@pytest.fixture
def hsm() -> Iterator[SoftHsm]:
    from tests.support.softhsm import SoftHsm

    with SoftHsm() as made:
        yield made


def signer_pids(sidecar: Sidecar) -> set[int]:
    return {pid for pid, command in children(sidecar.running.pid).items() if " signer --of " in command}


@pytest.mark.needs("swtpm", "tpm2-pytss")
def test_a_key_in_a_tpm_is_opened_once(site: Site, backend: Backend, tpm: Swtpm) -> None:
    tools = site.tools(backend, workers=2)
    key_in_tpm(site, tools, tpm)
    tools.start()
    assert len(tpm.transient_handles()) == 1
    assert len(signer_pids(tools)) == 1
    callers = callers_of_all(site, tools)
    (line, *_) = tools.await_log(len(callers), event="request")
    assert line["key.protection"] == "tpm"
    assert tools.ask("/certs").json["certs"][0]["key_protection"] == "tpm"
    assert tools.metric("sign_duration_seconds_count", protection="tpm") >= len(callers)
    assert tools.metric("key_info", protection="tpm") == 1
    assert tools.stop() == 0
    assert tpm.transient_handles() == tpm.loaded_sessions() == []
    assert children(tools.running.pid) == {}


@pytest.mark.needs("swtpm", "tpm2-pytss")
def test_the_signer_process_is_started_again(site: Site, backend: Backend, tpm: Swtpm) -> None:
    tools = site.tools(backend, workers=2, resumption="never")
    key_in_tpm(site, tools, tpm, pin=b"1234", handle=HANDLE)
    tools.start()
    callers = callers_of_all(site, tools)
    pids = worker_pids(tools)
    (signer,) = signer_pids(tools)
    os.kill(signer, signal.SIGKILL)
    tools.await_stderr("the signer process is gone: handshakes fail")
    assert {ask(caller, "GET", "/open").status for caller in callers} == {200}, "what is open goes on"
    eventually(lambda: signer_pids(tools) - {signer}, "another signer process")
    eventually(lambda: tools.ready, "it to sign")
    for _ in range(6):
        assert ask(site.caller(tools.port()), "GET", "/new").status == 200
    assert worker_pids(tools) == pids
    os.kill(min(pids), signal.SIGKILL)
    eventually(lambda: worker_pids(tools) != pids and len(worker_pids(tools)) == 2, "another worker")
    eventually(lambda: tools.ready and tools.metric("workers") == 2, "it to serve")
    for _ in range(6):
        assert ask(site.caller(tools.port()), "GET", "/new").status == 200


@pytest.mark.needs("swtpm", "tpm2-pytss")
def test_a_reload_keeps_the_key_and_another_key_gets_another_process(site: Site, backend: Backend, tpm: Swtpm) -> None:
    tools = site.tools(backend, workers=2, limits={"handshake_timeout": "1s", "connect_timeout": "1s"})
    key_in_tpm(site, tools, tpm)
    tools.start()
    (signer,) = signer_pids(tools)
    tools.config["limits"]["idle_timeout"] = "50s"
    tools.reload()
    assert signer_pids(tools) == {signer}
    pin = tools.ask("/certs").json["certs"][0]["pin"]
    site.path("tools.key").touch()  # the support expects one to remove
    key_in_tpm(site, tools, tpm)
    tools.reload()
    assert tools.ask("/certs").json["certs"][0]["pin"] != pin
    assert ask(site.caller(tools.port()), "GET", "/x").status == 200
    eventually(lambda: len(signer_pids(tools)) == 1 and signer not in signer_pids(tools), "the old one to end")
    assert ask(site.caller(tools.port()), "GET", "/y").status == 200


@pytest.mark.needs("swtpm", "tpm2-pytss")
def test_a_wrong_pin_is_tried_once(site: Site, backend: Backend, tpm: Swtpm) -> None:
    tools = site.tools(backend, workers=2)
    key_in_tpm(site, tools, tpm, pin=b"1234", handle=HANDLE)
    tools.start()
    (signer,) = signer_pids(tools)
    replace_file(site.path("tools.pin"), b"4321")
    for count in (1, 2):
        tools.signal(signal.SIGHUP)
        eventually(lambda: tools.reloads("failed") >= count, "the reload to be refused")  # noqa: B023 - at once
    assert "was refused before, and is not tried again" in tools.stderr
    assert signer_pids(tools) == {signer}
    assert ask(site.caller(tools.port()), "GET", "/x").status == 200
    assert tools.stop() == 0
    assert tools.launch().exit_code() == 2
    assert children(tools.running.pid) == {}


@pytest.mark.needs("softhsm", "python-pkcs11")
def test_a_key_in_a_token(site: Site, backend: Backend, hsm: SoftHsm) -> None:
    tools = site.tools(backend, workers=2)
    key_in_token(site, tools, hsm)
    tools.start()
    callers = callers_of_all(site, tools)
    assert len(connected(tools)) == 2
    (line, *_) = tools.await_log(len(callers), event="request")
    assert line["key.protection"] == "hsm"
    using = [pid for pid in children(tools.running.pid) if "libsofthsm2" in _maps(pid)]
    assert set(using) == signer_pids(tools), "no worker has loaded the vendor's library"
    assert tools.stop() == 0


def _maps(pid: int) -> str:
    with open(f"/proc/{pid}/maps") as maps:  # noqa: PTH123 - a file of the kernel's
        return maps.read()
