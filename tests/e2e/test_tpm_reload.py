"""Ensures that a reload changes keys all or nothing: the new one signs before it is taken, the old one is let go of.

Whatever is wrong with a new key, the old one serves on; a key that is reached as before stays open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.keyed import key_in_tpm
from tests.support.processes import ask, replace_file
from tests.support.swtpm import LOAD, SIGN, SlowRelay, Swtpm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site

pytestmark = pytest.mark.needs("swtpm", "tpm2-pytss")

#: An old key is let go of when no handshake can be under way with it any more.
QUICK = {"handshake_timeout": "200ms", "connect_timeout": "200ms"}


@pytest.fixture
def tpm() -> Iterator[Swtpm]:
    with Swtpm() as made:
        yield made


@pytest.fixture
def tools(site: Site, backend: Backend, tpm: Swtpm) -> Sidecar:
    made = site.tools(backend, limits=QUICK)
    key_in_tpm(site, made, tpm)
    return made.start()


def pin(tools: Sidecar) -> str:
    return str(tools.ask("/certs").json["certs"][0]["pin"])


def served(site: Site, tools: Sidecar) -> int:
    return ask(site.caller(tools.port()), "GET", "/x").status


def test_a_new_key_in_the_tpm_takes_over_and_the_old_one_is_flushed(site: Site, tools: Sidecar, tpm: Swtpm) -> None:
    before = pin(tools)
    connection = site.caller(tools.port())
    assert ask(connection, "GET", "/before").status == 200
    for _ in range(6):  # more than the TPM has room for
        site.identity("tools")  # the folder's old certificate and key make room for the next
        key_in_tpm(site, tools, tpm)
        tools.reload()
        assert served(site, tools) == 200
        eventually(lambda: len(tpm.transient_handles()) == 1, "the old key to be flushed")
    assert pin(tools) != before
    assert ask(connection, "GET", "/after").status == 200  # it needs no key any more


def test_from_the_tpm_to_a_file_and_back(site: Site, tools: Sidecar, tpm: Swtpm) -> None:
    wrapped, certificate = tools.config["identity"]["key"], site.path("tools.crt").read_bytes()
    site.identity("tools")
    tools.config["identity"]["key"] = "tools.key"
    tools.reload()
    assert served(site, tools) == 200
    assert tools.ask("/certs").json["certs"][0]["key_protection"] == "software"
    assert (tools.metric("key_info", protection="software"), tools.metric("key_info", protection="tpm")) == (1, 0)
    eventually(lambda: tpm.transient_handles() == [], "the TPM's key to be flushed")
    replace_file(site.path("tools.crt"), certificate)
    tools.config["identity"]["key"] = wrapped
    tools.reload()
    assert served(site, tools) == 200
    assert tools.ask("/certs").json["certs"][0]["key_protection"] == "tpm"


def test_the_same_key_stays_open_across_reloads(site: Site, backend: Backend, tpm: Swtpm) -> None:
    with SlowRelay(tpm) as relay:
        tools = site.tools(backend)
        key_in_tpm(site, tools, tpm, relay=relay)
        tools.start()
        loads, signatures = relay.commands[LOAD], relay.commands[SIGN]
        tools.config["drain_timeout"] = "3s"
        tools.reload()
        assert served(site, tools) == 200
        assert relay.commands[LOAD] == loads
        assert relay.commands[SIGN] == signatures + 1  # the handshake alone


def gone(site: Site, tools: Sidecar, tpm: Swtpm) -> str:
    tools.config["identity"]["key"] = "tpm:handle=0x81000077;" + tools.config["identity"]["key"].partition(";")[2]
    return "signer_key_gone"


def no_such_tpm(site: Site, tools: Sidecar, tpm: Swtpm) -> str:
    tools.config["identity"]["key"] = "tpm:file=tools.tpm.pem;tcti=swtpm:path=/nowhere/s"
    return "signer_unavailable"


def somebody_elses(site: Site, tools: Sidecar, tpm: Swtpm) -> str:
    certificate = site.path("tools.crt").read_bytes()
    site.identity("tools")
    key_in_tpm(site, tools, tpm)
    replace_file(site.path("tools.crt"), certificate)
    return "invalid_configuration"


def wrong_pin(site: Site, tools: Sidecar, tpm: Swtpm) -> str:
    site.identity("tools")
    key_in_tpm(site, tools, tpm, pin=b"right")
    replace_file(site.path("tools.pin"), b"other")
    return "signer_auth_failed"


@pytest.mark.parametrize("damage", [gone, no_such_tpm, somebody_elses, wrong_pin])
def test_a_key_that_does_not_sign_is_not_taken(
    site: Site, tools: Sidecar, tpm: Swtpm, damage: Callable[[Site, Sidecar, Swtpm], str]
) -> None:
    before, kept = pin(tools), dict(tools.config["identity"])
    certificate, wrapped = site.path("tools.crt").read_bytes(), site.path("tools.tpm.pem").read_bytes()
    code = damage(site, tools, tpm)
    tools.reload(result="failed")
    assert tools.log(event="reload", error=code)
    assert pin(tools) == before
    assert served(site, tools) == 200
    assert tools.ready
    assert len(tpm.transient_handles()) == 1
    replace_file(site.path("tools.crt"), certificate)
    replace_file(site.path("tools.tpm.pem"), wrapped)
    tools.config["identity"] = kept
    tools.reload()
    assert served(site, tools) == 200


def test_a_reload_while_the_tpm_hangs_ends_by_itself(site: Site, backend: Backend, tpm: Swtpm) -> None:
    with SlowRelay(tpm) as relay:
        tools = site.tools(backend, limits=QUICK)
        key_in_tpm(site, tools, tpm, relay=relay)
        tools.start()
        tools.config["limits"] = QUICK | {"sign_timeout": "300ms"}  # another limit: the key is opened anew
        tpm.hang()
        tools.reload(result="failed")
        assert tools.log(event="reload", error="signer_timeout")
        assert tools.ask("/live").status == 200
        signatures = relay.commands[SIGN]
        tpm.resume()
        # The key that came too late signs, and is let go of again: or the TPM had no room for the next one.
        eventually(lambda: relay.commands[SIGN] > signatures, "the late self-test")
        eventually(lambda: len(tpm.transient_handles()) == 1, "the late key to be flushed")
        tools.reload()
        assert served(site, tools) == 200
        eventually(lambda: len(tpm.transient_handles()) == 1, "the old key to be flushed")
