from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.cli.agent_environment import agent_environment, variable
from sidecar.cli.configuration import read_configuration
from tests.support.configuration import VALID

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.config.values import Config

HEAD = VALID[: VALID.index("inbound:")]
PEER = "connect: tools.example.org:8443\n    peer: spiffe://example.org/agent/tools/*\n"


def config(tmp_path: Path, *entries: str) -> Config:
    file = tmp_path / "planner.yaml"
    file.write_text(HEAD + "outbound:\n" + "".join(f"  - {entry}\n    {PEER}" for entry in entries))
    return read_configuration(file).config


def test_the_proxy_is_named_in_both_spellings_and_all_else_stays(tmp_path: Path) -> None:
    old = {"HTTP_PROXY": "http://corp:3128", "no_proxy": "corp", "ALL_PROXY": "socks5://x", "HOME": "/root"}
    found = agent_environment(config(tmp_path, "name: tools\n    listen: 127.0.0.1:14001"), "127.0.0.1:4711", old)
    proxy, none = "http://127.0.0.1:4711", "localhost,127.0.0.1,::1"
    assert found == {
        "HTTP_PROXY": proxy,
        "http_proxy": proxy,
        "HTTPS_PROXY": proxy,
        "https_proxy": proxy,
        "NO_PROXY": none,
        "no_proxy": none,
        "ALL_PROXY": "socks5://x",
        "HOME": "/root",
        "SIDECAR_TOOLS_URL": "http://127.0.0.1:14001",
    }
    assert old["HTTP_PROXY"] == "http://corp:3128"


def test_a_secret_of_the_proxys_is_no_business_of_the_agents(tmp_path: Path) -> None:
    entry = "name: tools\n    listen: 127.0.0.1:14001\n    token: crm"
    source = (
        "{name: crm, kind: oauth2, issuer: 'https://login.example.org', client_id: x, bound: false, "
        "client_auth: client_secret_basic, client_secret: {env: CRM_SECRET}}"
    )
    file = tmp_path / "planner.yaml"
    file.write_text(f"{HEAD}outbound:\n  - {entry}\n    {PEER}tokens:\n  - {source}\n")
    found = agent_environment(read_configuration(file).config, None, {"CRM_SECRET": "s", "HOME": "/root"})
    assert found == {"HOME": "/root", "SIDECAR_TOOLS_URL": "http://127.0.0.1:14001"}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("listen: 127.0.0.1:14001\n    hosts: [tools.internal]", "http://127.0.0.1:14001"),
        ("listen: '[::1]:14001'", "http://[::1]:14001"),
        ("listen: 0.0.0.0:14001\n    unsafe_plaintext_listen: true", "http://127.0.0.1:14001"),
        ("listen: 127.0.0.1:14001\n    protocol: tcp", "tcp://127.0.0.1:14001"),
    ],
)
def test_where_each_entry_is(tmp_path: Path, entry: str, expected: str) -> None:
    found = agent_environment(config(tmp_path, f"name: my-tools\n    {entry}"), None, {})
    assert found == {"SIDECAR_MY_TOOLS_URL": expected}


def test_names_become_variables() -> None:
    assert variable("a-b-1") == "SIDECAR_A_B_1_URL"
