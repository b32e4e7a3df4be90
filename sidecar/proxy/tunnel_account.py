"""What is written down about tunnels: one line and one count for each, and for each connection that gets none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.policy.decision import Denial, Permit
from sidecar.proxy import hits
from sidecar.telemetry.record import Decision, Event, Record

if TYPE_CHECKING:
    from enum import StrEnum

    from sidecar.proxy.tunnel import Tunnel
    from sidecar.telemetry.metrics import Metrics


class TunnelCounters:
    """The metric children of one entry, found once."""

    __slots__ = ("allowed", "denied", "received", "sent")

    def __init__(self, metrics: Metrics, direction: str, listener: str) -> None:
        self.allowed = metrics.tunnels_total.labels(direction, listener, "allow")
        self.denied = metrics.tunnels_total.labels(direction, listener, "deny")
        self.sent = metrics.tunnel_bytes_total.labels(direction, listener, "sent")
        self.received = metrics.tunnel_bytes_total.labels(direction, listener, "received")


class Counted:
    """How much of a tunnel's bytes the metrics have: they get the rest now and then, not with each chunk."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.sent = self.received = 0

    def add(self, tunnel: Tunnel) -> None:
        """Counts what came since the last time."""
        counters = tunnel.service.counters
        sent, received = tunnel.counts()
        counters.sent.inc(sent - self.sent)
        counters.received.inc(received - self.received)
        self.sent, self.received = sent, received


def ended(tunnel: Tunnel) -> None:
    """Writes the line of a tunnel, and counts it."""
    tunnel.counted.add(tunnel)
    tunnel.service.counters.allowed.inc()
    hits.count(tunnel.hub.metrics, tunnel.error)
    tunnel.hub.access_log.write(_record(tunnel, Event.TUNNEL), urgent=tunnel.error is not None)


def opened(tunnel: Tunnel) -> None:
    """Writes that a tunnel goes on for long."""
    tunnel.hub.access_log.write(_record(tunnel, Event.OPEN), urgent=True)


def turned_away(tunnel: Tunnel, reason: StrEnum) -> None:
    """Writes that a connection gets no tunnel: policy denies it, or we cannot serve just now."""
    hub, service, verdict = tunnel.hub, tunnel.service, tunnel.verdict
    record = Record(hub.clock.wall(), Event.REFUSED, service.contexts(tunnel))
    record.decision = Decision.DENY
    record.decision_reason = record.error = str(reason)
    record.decision_id = hub.ids.next() if verdict is None else verdict.decision_id
    record.policy_version = service.policy_version
    hub.access_log.write(record, urgent=True)
    hub.metrics.refused_total.labels(str(reason)).inc()
    hits.count(hub.metrics, reason)
    service.counters.denied.inc()
    if isinstance(verdict, Denial):
        hub.metrics.denied_total.labels(str(reason)).inc()


def _record(tunnel: Tunnel, event: Event) -> Record:
    hub, verdict = tunnel.hub, tunnel.verdict
    record = Record(hub.clock.wall(), event, tunnel.service.contexts(tunnel))
    record.bytes_sent, record.bytes_received = tunnel.counts()
    record.duration_ms = (hub.clock.monotonic() - tunnel.since) * 1000
    if isinstance(verdict, Permit):
        record.decision = Decision.ALLOW
        record.decision_rule = verdict.rule
        record.decision_id = verdict.decision_id
        record.policy_version = verdict.policy_version
    record.error = None if tunnel.error is None else str(tunnel.error)
    return record
