from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from sidecar.clock import Clock
from sidecar.config.load import load
from sidecar.demo import configs, software_tpm
from sidecar.demo.stage import ANY_AGENT, AUDIENCE, PLANNER, ROGUE, TOOLS, TOOLS_HOST, Ports
from sidecar.devcerts.generate import generate
from sidecar.devcerts.layout import Order
from sidecar.identity.pins import Pin
from sidecar.identity.spiffe import SpiffeId
from sidecar.keys.spec import TpmKey, parse

if TYPE_CHECKING:
    from pathlib import Path

PORTS = Ports(*range(20001, 20008))


def test_both_configurations_are_accepted_and_name_each_other_alone(tmp_path: Path) -> None:
    now = Clock().wall()
    made = generate(Order.parse(tmp_path / "certs", ["planner", "tools"]), now)
    planner, tools = made.identities
    (tmp_path / "planner.yaml").write_text(configs.planner(PORTS, tools.pin, "certs/planner/tls.key"))
    (tmp_path / "tools.yaml").write_text(configs.tools(PORTS, planner.pin, "certs/tools/tls.key"))
    ours = load(tmp_path / "planner.yaml", now=now)
    theirs = load(tmp_path / "tools.yaml", now=now)
    assert (str(ours.material.svid.id), str(theirs.material.svid.id)) == (PLANNER, TOOLS)
    assert {entry.pins for entry in ours.config.outbound} == {frozenset({tools.pin})}
    assert {entry.hosts for entry in ours.config.outbound} == {frozenset({TOOLS_HOST.encode()})}
    assert not ours.config.inbound
    mcp, shared = theirs.config.inbound
    (rule,) = mcp.allow
    assert str(rule.caller) == "spiffe://example.org/agent/planner/*"
    assert rule.pins == {planner.pin}
    assert rule.token is None
    assert not theirs.config.outbound
    # Where others are named, a token has to be there, bound to their certificate; the tools' server does get to see it.
    (rule,) = shared.allow
    assert str(rule.caller) == ANY_AGENT
    assert rule.caller.matches(SpiffeId.parse(ROGUE))
    assert rule.token is not None
    assert (rule.token.audience, rule.token.bound, rule.token.pass_token) == (frozenset({AUDIENCE}), True, True)


def test_the_planner_s_token_goes_out_by_one_entry_alone(tmp_path: Path) -> None:
    now = Clock().wall()
    made = generate(Order.parse(tmp_path / "certs", ["planner", "tools"]), now)
    (tmp_path / "planner.yaml").write_text(configs.planner(PORTS, made.identities[1].pin, "certs/planner/tls.key"))
    config = load(tmp_path / "planner.yaml", now=now).config
    assert {entry.name: entry.token for entry in config.outbound if entry.token} == {"tools-shared": "for-tools"}


def test_a_key_in_a_software_tpm_is_a_place_that_the_configuration_takes(tmp_path: Path) -> None:
    text = configs.tools(PORTS, Pin.of_spki(b"x"), software_tpm.key("tools"))
    place = yaml.safe_load(text)["identity"]["key"]
    assert parse(place, tmp_path) == TpmKey(file=tmp_path / "certs/tools/tls.tpm.pem", tcti="swtpm:path=tools.tpm")
