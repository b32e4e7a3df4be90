"""Which of several entries serves a request: looked up, and compared with what the words of the documentation say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.http.messages import TargetForm
from sidecar.policy.decision import Permit
from sidecar.policy.routes import NO_PAGE, Route, RouteTable
from sidecar.proxy.agent_service import AgentService, OnConnect, nowhere
from sidecar.proxy.bound import Bound
from sidecar.proxy.connect_tunnel import TunnelDoor
from sidecar.proxy.front import Front
from sidecar.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from sidecar.http.messages import RequestHead

HUB: Any = SimpleNamespace(metrics=Metrics())


class Requests(AgentService):
    on_connect = OnConnect.BIND


class Entry(NamedTuple):
    name: str
    tcp: bool
    hosts: frozenset[bytes]


def service(entry: Entry) -> AgentService:
    table = RouteTable(Route(f"outbound.{entry.name}", frozenset(), entry.hosts), "v1")
    if entry.tcp:
        way = SimpleNamespace(destination=SimpleNamespace(text="a:1"))
        return TunnelDoor(table, SimpleNamespace(hub=HUB, name=entry.name, own=None, way=way, uids=None))  # type: ignore[arg-type]
    return Requests(HUB, entry.name, None, table, nowhere(HUB))  # type: ignore[arg-type]


def front(*entries: Entry) -> Front:
    own: Any = None
    return Front(HUB, "127.0.0.1:1", own, "v1", [service(entry) for entry in entries], None)


def head(form: TargetForm, authority: bytes) -> RequestHead:
    return SimpleNamespace(form=form, authority=authority)  # type: ignore[return-value]


def model(entries: list[Entry], form: TargetForm, authority: bytes) -> str | None:
    """What docs/configuration.md says, word for word and entry by entry; None is a 403."""
    name, _, port = authority.partition(b":")
    if form is TargetForm.ABSOLUTE:
        wanted = [name, name + b":80"] if port in {b"", b"80"} else [authority]
        return next((e.name for e in entries if not e.tcp and e.hosts & set(wanted)), None)
    if form is not TargetForm.AUTHORITY:
        return None
    exact = next((e.name for e in entries if authority in e.hosts or (port == b"80" and name in e.hosts)), None)
    implied = next((e.name for e in entries if port == b"443" and name in e.hosts), None)
    return exact or implied


NAMES = st.sampled_from([b"a", b"b"])
PORTS = st.sampled_from([b"", b":80", b":443", b":81"])
HOST = st.builds(lambda name, port: name + port, NAMES, PORTS)


@st.composite
def configurations(draw: st.DrawFn) -> list[Entry]:
    """Entries that no configuration would refuse: each host has one, by any spelling."""
    entries, taken = [], set[bytes]()
    for name in "xyz"[: draw(st.integers(0, 3))]:
        hosts = {host for host in draw(st.sets(HOST, min_size=1)) if host.removesuffix(b":80") not in taken}
        taken |= {host.removesuffix(b":80") for host in hosts}
        entries.append(Entry(name, draw(st.booleans()), frozenset(hosts)))
    return entries


@pytest.mark.threat(26)
@given(configurations(), st.sampled_from(list(TargetForm)), NAMES, PORTS)
def test_threat_26_the_look_up_agrees_with_a_naive_model(
    entries: list[Entry], form: TargetForm, name: bytes, port: bytes
) -> None:
    """Invariant: a request gets to the entry that its authority names, in any spelling, and to no other."""
    if form is TargetForm.AUTHORITY and not port:
        return  # no CONNECT is without
    authority = name + port if form in {TargetForm.AUTHORITY, TargetForm.ABSOLUTE} else b""
    made = front(*entries)
    found = made.pick(head(form, authority), None)
    assert (found.name if found is not made else None) == model(entries, form, authority)
    # The entry decides too, and comes to the same.
    if form is TargetForm.AUTHORITY:
        verdict = found.routes.connect(authority, decision_id="d")
        assert isinstance(verdict, Permit) == (found is not made)
        tunnels = made.tunnels_at(authority)
        assert (tunnels is not None) == (isinstance(found, TunnelDoor))
        assert made.holds(Bound(found.name, authority)) == (found is not made and not isinstance(found, TunnelDoor))
    elif form is TargetForm.ABSOLUTE:
        verdict = found.routes.route(b"GET", authority, authority, b"/", NO_PAGE, decision_id="d")
        assert isinstance(verdict, Permit) == (found is not made)


def test_what_two_entries_claim_is_neithers() -> None:
    made = front(Entry("x", False, frozenset({b"a", b"b"})), Entry("y", False, frozenset({b"a:80", b"c"})))
    for form in (TargetForm.ABSOLUTE, TargetForm.AUTHORITY):
        assert made.pick(head(form, b"a:80"), None) is made
        assert made.pick(head(form, b"c:80"), None).name == "y"


def test_who_names_a_port_has_it() -> None:
    """Also where another one's name without a port would take it in, in whichever order they stand."""
    named, implied = Entry("x", False, frozenset({b"a:443", b"b:80"})), Entry("y", True, frozenset({b"a", b"c:443"}))
    for made in (front(named, implied), front(implied, named)):
        found = {name: made.pick(head(TargetForm.AUTHORITY, name), None).name for name in (b"a:443", b"a:80", b"c:443")}
        assert found == {b"a:443": "x", b"a:80": "y", b"c:443": "y"}
        assert made.pick(head(TargetForm.ABSOLUTE, b"a:443"), None).name == "x"


def test_a_bound_connection_stays_with_its_entry_whatever_it_names() -> None:
    made = front(Entry("x", False, frozenset({b"a"})), Entry("y", False, frozenset({b"b"})))
    bound = Bound("x", b"a:80")
    assert made.pick(head(TargetForm.ABSOLUTE, b"b"), bound).name == "x"
    assert made.pick(head(TargetForm.ORIGIN, b""), Bound("gone", b"a:80")) is made
    assert not made.holds(Bound("y", b"a:80")), "another entry has the name"
    assert bound.routes(made.pick(None, bound)).absolute == {b"a", b"a:80"}
    assert Bound("x", b"b:80").routes(made.pick(None, bound)).absolute == frozenset(), "no longer so called"


def test_a_port_that_another_entry_names_by_now_is_not_the_bound_ones_any_more() -> None:
    one, another = Entry("x", False, frozenset({b"a"})), Entry("y", False, frozenset({b"a:443"}))
    bound = Bound("x", b"a:443")
    assert front(one).holds(bound)
    assert not front(one, another).holds(bound)


def test_nothing_goes_on_from_where_nothing_is_permitted() -> None:
    made = front(Entry("x", False, frozenset({b"a"})))
    with pytest.raises(RuntimeError, match="nothing is forwarded"):
        made.outgoing(None)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="nothing is forwarded"):
        made.pool.destination.stream(None)  # type: ignore[arg-type]
