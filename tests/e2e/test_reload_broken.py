"""Ensures that a reload that fails changes nothing: the old state serves on, and operators are told.

Whatever is broken (bundle, configuration, key and certificate of two pairs), old callers are served on old and new
connections, a caller of a foreign authority is still refused, the metric counts the failure, a message and a line of the
log name it, and the next good reload is taken.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from tests.support.ca import DAY, Ca, keypair
from tests.support.processes import ask, now, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site

    Damage = Callable[[Site, Sidecar], None]


def bundle_gone(site: Site, tools: Sidecar) -> None:
    site.path("ca.crt").unlink()


def bundle_empty(site: Site, tools: Sidecar) -> None:
    replace_file(site.path("ca.crt"), b"")


def bundle_half(site: Site, tools: Sidecar) -> None:
    replace_file(site.path("ca.crt"), site.ca.pem[: len(site.ca.pem) // 2])


def configuration_half(site: Site, tools: Sidecar) -> None:
    del tools.config["inbound"][0]["allow"]


def nobody_named(site: Site, tools: Sidecar) -> None:
    tools.config["inbound"][0]["allow"] = []


def certificate_without_its_key(site: Site, tools: Sidecar) -> None:
    """A renewal seen in its middle: the new certificate is there, the new key not yet."""
    renewed = site.ca.leaf("/agent/tools/1", key=keypair("renewed"), now=now(), lifetime=DAY)
    replace_file(site.path("tools.crt"), renewed.chain_pem)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "bundle gone": (bundle_gone, "ca.crt: does not exist"),
    "bundle empty": (bundle_empty, "ca.crt"),
    "bundle half": (bundle_half, "ca.crt"),
    "configuration half": (configuration_half, "inbound[0].allow"),
    "nobody named": (nobody_named, "no caller is named"),
    "pair mismatch": (certificate_without_its_key, "tools.key"),
}


@pytest.mark.threat(2, 24)
def test_threat_2_24_a_broken_reload_keeps_the_old_state(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    stranger = Ca(key="stranger", now=now())
    site.identity("forged", "/agent/planner/1", ca=stranger)
    old = site.caller(tools.port())
    assert ask(old, "GET", "/before").status == 200
    config, certificate = tools.file.read_bytes(), site.path("tools.crt").read_bytes()
    serial = tools.ask("/certs").json["certs"][0]["serial"]
    policy = tools.ask("/config").json["policy_version"]
    for count, (name, (damage, named)) in enumerate(DAMAGES.items(), 1):
        sound = tools.config["inbound"][0]["allow"]
        damage(site, tools)
        tools.reload(result="failed")
        assert tools.reloads("failed") == count, name
        assert ask(old, "GET", f"/{count}/old").status == 200, name
        assert ask(site.caller(tools.port()), "GET", f"/{count}/new").status == 200, name
        assert refused(site, tools, "forged"), name
        assert tools.ready, name
        tools.await_log(count, event="reload")
        last = tools.stderr[tools.stderr.rindex("reload refused") :]
        assert named in last, name
        tools.config["inbound"][0]["allow"] = sound
        replace_file(site.path("ca.crt"), site.ca.pem)
        replace_file(site.path("tools.crt"), certificate)
    assert all("error" in line for line in tools.log(event="reload"))
    assert tools.ask("/certs").json["certs"][0]["serial"] == serial
    assert tools.ask("/config").json["policy_version"] == policy
    assert not backend.of("/forged")
    replace_file(tools.file, config)
    tools.reload()
    assert ask(old, "GET", "/after").status == 200


def refused(site: Site, tools: Sidecar, name: str) -> bool:
    """Whether a caller's handshake is refused; over TLS 1.3 it learns so when it reads."""
    try:
        ask(site.caller(tools.port(), name), "GET", "/forged")
    except (ssl.SSLError, ConnectionError):
        return True
    return False


@pytest.mark.threat(2)
def test_threat_2_a_broken_file_is_tried_once_and_not_every_second(site: Site, backend: Backend) -> None:
    """The watcher says it once; when the file is whole again it is taken without a signal."""
    tools = site.tools(backend).start()
    replace_file(site.path("ca.crt"), b"broken")
    tools.await_log(event="reload")
    seen = tools.reloads("failed")
    replace_file(site.path("ca.crt"), site.ca.pem + Ca("example.org", key="second", now=now()).pem)
    tools.await_log(2, event="reload")
    assert (seen, tools.reloads("failed"), tools.reloads("ok")) == (1, 1, 1)
