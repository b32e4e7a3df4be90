"""Ensures that what cannot change while running refuses a reload as a whole, so that nobody believes it was taken.

The rules that stand in the same file are not taken either, and the message says what to restart or restore.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, ask, free_port

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Site

CHANGES: dict[str, Any] = {
    "admin": {"listen": "unix:elsewhere.sock"},
    "health": {"listen": f"{LOOPBACK}:{free_port()}"},
}


@pytest.mark.threat(24)
def test_threat_24_what_needs_a_restart_refuses_the_reload_as_a_whole(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    sound = tools.config
    others = [sound["inbound"][0] | {"allow": [{"caller": "spiffe://example.org/agent/other/1"}]}]
    for count, (key, value) in enumerate(CHANGES.items(), 1):
        tools.config = sound | {"inbound": others, key: value}
        tools.write()
        tools.config = sound  # where we ask: the process still runs by this one
        tools.signal(signal.SIGHUP)
        eventually(lambda count=count: tools.reloads("failed") == count, f"the refusal of {key}")  # type: ignore[misc]
        assert f"{key} cannot change while running" in tools.stderr
        assert ask(site.caller(tools.port()), "GET", f"/{key}").status == 200
    assert not site.path("elsewhere.sock").exists()
    tools.reload()
