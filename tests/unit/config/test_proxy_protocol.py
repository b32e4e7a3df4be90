from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.config.effective import effective, policy_version
from sidecar.config.faults import ConfigCode
from sidecar.config.values import ProxyProtocol
from tests.support.configuration import VALID, edit

if TYPE_CHECKING:
    from tests.support.configuration import Workspace

TUNNEL = edit(
    "    forward: http://127.0.0.1:8080\n",
    "    forward: tcp://127.0.0.1:8080\n",
    edit("        methods: [GET, POST]\n        paths: [/mcp, /tools/**]\n", ""),
)


def asked(text: str, value: str = "v2") -> str:
    return edit("    allow:\n", f"    proxy_protocol: {value}\n    allow:\n", text)


def test_it_is_for_tunnels(workspace: Workspace) -> None:
    assert workspace.load(TUNNEL).config.inbound[0].proxy_protocol is None
    config = workspace.load(asked(TUNNEL)).config
    assert config.inbound[0].proxy_protocol is ProxyProtocol.V2
    assert effective(config)["inbound"][0]["proxy_protocol"] == "v2"


def test_what_the_upstream_is_told_is_no_policy(workspace: Workspace) -> None:
    plain, telling = (policy_version(workspace.load(text).config) for text in (TUNNEL, asked(TUNNEL)))
    assert plain == telling


def test_requests_have_fields_for_that(workspace: Workspace) -> None:
    fault = workspace.fault(asked(VALID))
    assert (fault.code, fault.key) == (ConfigCode.NOT_FOR_HTTP, "inbound[0].proxy_protocol")
    assert "x-sidecar-caller" in fault.hint


@pytest.mark.parametrize("value", ["v1", "2", "true", "[v2]"])
def test_there_is_one_version(workspace: Workspace, value: str) -> None:
    assert workspace.fault(asked(TUNNEL, value)).key == "inbound[0].proxy_protocol"
