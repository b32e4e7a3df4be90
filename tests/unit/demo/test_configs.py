from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.clock import Clock
from sidecar.config.load import load
from sidecar.demo import configs
from sidecar.demo.stage import PLANNER, TOOLS, TOOLS_HOST, Ports
from sidecar.devcerts.generate import generate
from sidecar.devcerts.layout import Order

if TYPE_CHECKING:
    from pathlib import Path

PORTS = Ports(20001, 20002, 20003, 20004, 20005)


def test_both_configurations_are_accepted_and_name_each_other_alone(tmp_path: Path) -> None:
    now = Clock().wall()
    made = generate(Order.parse(tmp_path / "certs", ["planner", "tools"]), now)
    planner, tools = made.identities
    (tmp_path / "planner.yaml").write_text(configs.planner(PORTS, tools.pin))
    (tmp_path / "tools.yaml").write_text(configs.tools(PORTS, planner.pin))
    ours = load(tmp_path / "planner.yaml", now=now)
    theirs = load(tmp_path / "tools.yaml", now=now)
    assert (str(ours.material.svid.id), str(theirs.material.svid.id)) == (PLANNER, TOOLS)
    assert {entry.pins for entry in ours.config.outbound} == {frozenset({tools.pin})}
    assert {entry.hosts for entry in ours.config.outbound} == {frozenset({TOOLS_HOST.encode()})}
    assert not ours.config.inbound
    (entry,) = theirs.config.inbound
    (rule,) = entry.allow
    assert str(rule.caller) == "spiffe://example.org/agent/planner/*"
    assert rule.pins == {planner.pin}
    assert not theirs.config.outbound
