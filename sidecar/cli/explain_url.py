"""What becomes of the agent's request for a URL: which outbound entry takes it, by the tables that the proxy runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar.app.outbound import by_listen, own_hosts, route_of
from sidecar.cli.questions import no_such_request
from sidecar.cli.verdicts import Answer, Held, ambiguity, text_of
from sidecar.config.effective import policy_version
from sidecar.config.faults import printable
from sidecar.config.values import Protocol, Tls
from sidecar.http.errors import HttpError
from sidecar.http.messages import TargetForm
from sidecar.http.target import parse_target
from sidecar.policy.decision import Permit, Reason
from sidecar.policy.routes import RouteTable, connects_of

if TYPE_CHECKING:
    from sidecar.config.values import Config, Outbound
    from sidecar.policy.decision import Denial

#: What the log says of an agent that does TLS by itself, and of a CONNECT where only requests are taken.
_AGENT_TLS, _REFUSED = "agent_tls", "method_refused"
_SAYS: Final[dict[str, str]] = {
    Reason.HOST_NOT_SERVED: "the agent calls this entry otherwise",
    Reason.PATH_NOT_ALLOWED: "the entry takes other paths",
    Reason.METHOD_NOT_ALLOWED: "the entry takes other methods",
    Reason.METHOD_REFUSED: "CONNECT and TRACE are no requests for a URL",
}


class Asked(NamedTuple):
    """A request for a URL. ``secure``: of https, for which an agent asks its proxy for a tunnel."""

    method: bytes
    secure: bool
    authority: bytes
    path: bytes

    @property
    def connect(self) -> bytes:
        """What a CONNECT names: it always has a port."""
        after = self.authority.rpartition(b"]")[2]
        return self.authority if b":" in after else self.authority + b":443"


def asked_url(method: str, url: str) -> Asked:
    """Takes a URL apart as the proxy takes a request's target. Raises ConfigurationError where it would be 400."""
    try:
        found = parse_target(method.encode(), url.encode(errors="surrogateescape"), secure=True)
    except HttpError as error:
        raise no_such_request(f"{method} {url}", str(error)) from None
    if found.form is not TargetForm.ABSOLUTE:
        raise no_such_request(f"{method} {url}", "write a whole URL, such as http://tools.internal/mcp")
    return Asked(method.encode(), found.scheme == b"https", found.authority, found.path)


def way_of(config: Config, entry: Outbound, asked: Asked) -> Answer:
    """Says whether an entry takes a request for that URL, where it listens or at the listener of `sidecar exec`."""
    there = by_listen(config.outbound)[entry.listen]
    own = own_hosts(entry.listen) if len(there) == 1 else frozenset()
    table = _table(config, entry, own)
    raw = entry.protocol is Protocol.TCP and len(there) == 1
    if raw and asked.authority in own:
        return Answer(entry.name, "a connection", allowed=True, rule=table.rule, leads=_leads(entry))
    if asked.secure:
        # A listener of its own where no CONNECT is looked for leaves that of `sidecar exec`, which serves all.
        beside = config.outbound if raw else [other for other in config.outbound if other.name in there]
        taken = connects_of([(other.name, _table(config, other)) for other in beside])
        return _tunnel(entry, table, asked, taken.get(asked.connect, ""), own)
    if entry.protocol is Protocol.TCP or entry.passthrough:
        return _denied(entry, asked, Reason.HOST_NOT_SERVED, 403, "it carries connections, and no requests", own)
    verdict = _request(table, asked)
    if isinstance(verdict, Permit):
        return Answer(entry.name, _words(asked), allowed=True, rule=verdict.rule, leads=_leads(entry))
    return _denied(entry, asked, str(verdict.reason), verdict.status, _why(entry, asked, verdict), own)


def _table(config: Config, entry: Outbound, own: frozenset[bytes] = frozenset()) -> RouteTable:
    hosts = entry.hosts or frozenset((entry.name.encode("ascii"),))
    return RouteTable(route_of(entry, hosts, own), policy_version(config))


def _request(table: RouteTable, asked: Asked) -> Permit | Denial:
    """Asks as a client does that has the proxy for it, and as one that takes the listener for the server."""
    as_proxy = table.route(asked.method, asked.authority, b"", asked.path, decision_id="")
    if isinstance(as_proxy, Permit):
        return as_proxy
    as_server = table.route(asked.method, b"", asked.authority, asked.path, decision_id="")
    if isinstance(as_server, Permit) or as_proxy.reason is Reason.HOST_NOT_SERVED:
        return as_server
    return as_proxy


def _tunnel(entry: Outbound, table: RouteTable, asked: Asked, taker: str, own: frozenset[bytes]) -> Answer:
    """An https URL: the agent asks its proxy for a tunnel (CONNECT), and does TLS inside. ``taker`` is who gets that."""
    verdict = table.connect(asked.connect, decision_id="")
    if not isinstance(verdict, Permit):
        return _denied(entry, asked, str(verdict.reason), verdict.status, _why(entry, asked, verdict), own)
    if taker != entry.name:
        says = f"{taker} names this very port" if taker else "another entry claims it too, and so it is none's"
        return _denied(entry, asked, Reason.HOST_NOT_SERVED, 403, says, own)
    if entry.protocol is Protocol.TCP or entry.passthrough:
        return Answer(entry.name, _words(asked), allowed=True, rule=verdict.rule, leads=_leads(entry))
    url = printable(table.url_of(asked.connect))
    says = f"the proxy does the TLS: ask for {url}"
    if entry.tls is Tls.PUBLIC:
        return _denied(entry, asked, _REFUSED, 405, f"{says}, or say passthrough: true", own)
    return _denied(entry, asked, _AGENT_TLS, None, says, own)


def _why(entry: Outbound, asked: Asked, verdict: Denial) -> str:
    return _SAYS.get(verdict.reason) or ambiguity(asked.path, strict=bool(entry.paths))


def _denied(entry: Outbound, asked: Asked, reason: str, status: int | None, says: str, own: frozenset[bytes]) -> Answer:
    conditions = _conditions(entry, asked, own)
    return Answer(
        entry.name,
        _words(asked),
        allowed=False,
        reason=str(reason),
        says=says,
        status=status,
        rule=f"outbound.{entry.name}",
        conditions=tuple(conditions[:1] if reason == Reason.HOST_NOT_SERVED else conditions),
    )


def _conditions(entry: Outbound, asked: Asked, own: frozenset[bytes]) -> list[Held]:
    hosts = " ".join(sorted(map(text_of, entry.hosts))) or f"{entry.name} (at the listener of sidecar exec)"
    where = f"{hosts}; or its listener, {printable(str(entry.listen))}" if own else hosts
    names = RouteTable(route_of(entry, entry.hosts or frozenset((entry.name.encode("ascii"),))), "")
    known = names.connects if asked.secure else names.absolute | own
    named = (asked.connect if asked.secure else asked.authority) in known
    paths, methods = entry.paths, entry.methods
    return [
        Held("host", where, named, f", it is {text_of(asked.authority)}"),
        Held(
            "path",
            " ".join(map(str, paths)) or "any",
            not paths or any(pattern.matches(asked.path) for pattern in paths),
            f", it is {text_of(asked.path)}",
        ),
        Held(
            "method",
            " ".join(sorted(map(text_of, methods))) or "any",
            not methods or asked.method in methods,
            f", it is {text_of(asked.method)}",
        ),
    ]


def _words(asked: Asked) -> str:
    if asked.secure:
        return f"CONNECT {text_of(asked.connect)}"
    return f"{text_of(asked.method)} {text_of(asked.authority + asked.path)}"


def _leads(entry: Outbound) -> str:
    who = f"proven as {entry.peer}" if entry.peer is not None else "verified by its host name"
    pins = " and pinned" if entry.pins else ""
    token = f", with a token of {entry.token}" if entry.token else ""
    if entry.passthrough:
        return f"to {entry.connect}, in the agent's own TLS"
    return f"to {entry.connect}, {who}{pins}{token}"
