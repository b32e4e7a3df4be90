"""What is written down: one line and one count for every request, refused connection and rejected message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.http.errors import HttpCode
from sidecar.policy.decision import Denial, Permit
from sidecar.proxy import hits
from sidecar.telemetry.encode import detail_part, encode_request, outcome, token_part
from sidecar.telemetry.record import Context, Decision, Event, Record
from sidecar.tokens.codes import TokenCode

if TYPE_CHECKING:
    from sidecar.errors import SidecarError
    from sidecar.proxy.connection import Entry
    from sidecar.proxy.downstream import Downstream
    from sidecar.proxy.exchange import Exchange
    from sidecar.proxy.failure import ProxyCode
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.service import Service
    from sidecar.sockets import Peer
    from sidecar.tokens.outcome import Refused
    from sidecar.tokens.requirement import Verified

# Looking a member up on its Enum is dear where it happens for every request.
_REQUEST, _ALLOW = Event.REQUEST, Decision.ALLOW


def exchanged(hub: Hub, exchange: Exchange, event: Event) -> None:
    """Writes the line of a request: ``request`` when it is over, ``open`` when it goes on for long."""
    clock = hub.clock
    seconds = clock.monotonic() - exchange.started
    service = exchange.service
    verdict = exchange.verdict
    usual = exchange.error is None and event is _REQUEST and isinstance(verdict, Permit) and verdict.stolen is None
    if not usual or not isinstance(verdict, Permit):
        _unusual(hub, exchange, event, seconds)
        return
    line = encode_request(
        clock.wall(),
        service.told(exchange),
        exchange.status,
        exchange.bytes_sent,
        exchange.bytes_received,
        seconds * 1000,
        outcome(_ALLOW, verdict.rule, None, service.policy_version),
        verdict.decision_id,
        exchange.facts.session,
        exchange.trace_id,
        "" if verdict.admitted is None else _token(verdict.admitted.token),
    )
    hub.access_log.add(line)
    service.counters.allowed(exchange.status, seconds)


def _unusual(hub: Hub, exchange: Exchange, event: Event, seconds: float) -> None:
    """A request that was denied, failed, or goes on."""
    service = exchange.service
    verdict = exchange.verdict
    denied = not isinstance(verdict, Permit)
    record = Record(hub.clock.wall(), event, (Context(service.told(exchange)),))
    record.http_status = exchange.status or None
    record.bytes_sent = exchange.bytes_sent
    record.bytes_received = exchange.bytes_received
    record.duration_ms = seconds * 1000
    record.decision = Decision.DENY if denied else Decision.ALLOW
    record.policy_version = service.policy_version
    record.decision_id = exchange.decision_id
    if isinstance(verdict, Permit):
        record.decision_rule = verdict.rule
    elif isinstance(verdict, Denial):
        record.decision_reason = str(verdict.reason)
    else:
        record.decision_reason = None if exchange.error is None else str(exchange.error)
    record.session_id = exchange.facts.session
    record.trace_id = exchange.trace_id
    record.error = None if exchange.error is None else str(exchange.error)
    if isinstance(verdict, Permit) and verdict.admitted is not None:
        record.token = _token(verdict.admitted.token)
    refused = verdict.stolen if isinstance(verdict, Permit) else verdict.refused if verdict is not None else None
    if refused is not None and event is _REQUEST:
        _refused_token(hub, service, record, refused)
    hub.access_log.write(record, urgent=denied or event is not _REQUEST)
    if event is not _REQUEST:
        return
    hits.count(hub.metrics, record.error)
    service.counters.requests(str(record.decision), exchange.status).inc()
    service.counters.duration.observe(seconds)
    if denied:
        hub.metrics.denied_total.labels(str(record.decision_reason)).inc()


def _token(token: Verified) -> str:
    return token_part(token.issuer, token.subject, token.id, token.scopes)


def _refused_token(hub: Hub, service: Service, record: Record, refused: Refused) -> None:
    """Adds what is known of a token that did not help, and tells operators what concerns them."""
    hub.metrics.tokens_refused_total.labels(service.name, str(refused.code)).inc()
    record.token = detail_part(refused.detail) if refused.detail else ""
    if refused.token is not None:
        record.token = _token(refused.token) + record.token
    if refused.code is TokenCode.BOUND_ELSEWHERE:
        # Whoever shows somebody else's token has it from somewhere.
        record.incident = str(refused.code)
        hub.metrics.incidents_total.labels(str(refused.code)).inc()
        hub.messages.error(
            "incident: a caller showed a token that is bound to another certificate",
            listener=service.name,
            decision_id=record.decision_id,
        )
    elif refused.code is TokenCode.LIVES_TOO_LONG and refused.token is not None:
        hub.messages.warning(
            "a valid token lives longer than its rule allows",
            listener=service.name,
            key=f"{refused.requirement.key}.max_lifetime",
            allowed_seconds=f"{refused.requirement.max_lifetime:g}",
            lives_seconds=f"{refused.token.expires - refused.token.issued:g}",
            signed_by=refused.token.key_id or "-",
            decision_id=record.decision_id,
        )


def rejected(hub: Hub, service: Service, connection: Downstream, status: int, code: str) -> None:
    """Writes the line of bytes that never became a request."""
    record = Record(hub.clock.wall(), Event.REQUEST, (service.context(connection),))
    record.http_status = status
    record.decision = Decision.DENY
    record.decision_reason = record.error = code
    record.decision_id = hub.ids.next()
    record.policy_version = service.policy_version
    hub.access_log.write(record, urgent=True)
    hits.count(hub.metrics, code)
    service.counters.requests("deny", status).inc()
    if code == HttpCode.SECURE_SCHEME_ON_PLAINTEXT:
        text = "the agent asked us in plaintext for an https:// URL: give it an http:// URL, the proxy does the TLS"
        hub.messages.warning(text, listener=service.name, code=code)


def refused(hub: Hub, service: Entry, remote: str, error: SidecarError, client: Peer | None) -> None:
    """Writes the line of a connection whose peer was not proven, or is a process that is not served."""
    _refusal(hub, service, remote, str(error.code), client)


def limited(hub: Hub, service: Entry, remote: str, code: ProxyCode) -> None:
    """Writes the line of a connection that was one too many."""
    _refusal(hub, service, remote, str(code))


def one_too_many(hub: Hub, service: Service, connection: Downstream, code: ProxyCode) -> None:
    """Writes the same of one whose caller is proven."""
    _refused(hub, service, service.context(connection), str(code))


def closed(hub: Hub, service: Service, connection: Downstream, code: ProxyCode) -> None:
    """Writes that a limit has ended a connection without a request under way."""
    record = Record(hub.clock.wall(), Event.CLOSED, (service.context(connection),), error=str(code))
    hub.access_log.write(record)
    hits.count(hub.metrics, code)


def _refusal(hub: Hub, service: Entry, remote: str, code: str, client: Peer | None = None) -> None:
    context = Context.of(
        direction=service.direction,
        listener=service.name,
        src_addr=remote or None,
        src_uid=None if client is None else client.uid,
        src_pid=None if client is None else client.pid,
        dst_identity=service.own.name if service.direction == "inbound" else None,
        key_protection=service.own.protection,
    )
    _refused(hub, service, context, code)


def _refused(hub: Hub, service: Entry, context: Context, code: str) -> None:
    record = Record(hub.clock.wall(), Event.REFUSED, (context,))
    record.decision = Decision.DENY
    record.decision_reason = record.error = code
    record.decision_id = hub.ids.next()
    record.policy_version = service.policy_version
    hub.access_log.write(record, urgent=True)
    hub.metrics.refused_total.labels(code).inc()
    hits.count(hub.metrics, code)
