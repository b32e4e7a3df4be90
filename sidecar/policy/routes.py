"""Which of the agent's requests an outbound entry takes: a closed list of names, nothing is ever resolved.

The agent speaks to the listener in one of three ways. As to a server (origin-form): ``Host`` is the address it dialled,
``localhost``, or one of the entry's ``hosts``. As to a proxy: the authority of an absolute-form target, or of CONNECT, is
one of the ``hosts``. Everything else is denied, so neither a metadata address nor another local port can be reached
through it. A web page that a browser on this machine shows is denied first, whatever it names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from sidecar.errors import ConfigurationError
from sidecar.policy.decision import BAD_REQUEST, NOT_ALLOWED, Denial, DenialReason, Permit, Reason
from sidecar.policy.paths import PathError, check_path
from sidecar.policy.table import ASTERISK, REFUSED_METHODS
from sidecar.policy.tree import PathTree

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sidecar.policy.paths import PathPattern

T = TypeVar("T")

#: RFC 9110 4.2.1: what a client may leave out.
DEFAULT_PORT = b":80"
#: What CONNECT may name where ``hosts`` has a name alone. 443 is there for who was given an https:// URL, and so learns
#: what to change.
CONNECT_PORTS = (b":80", b":443")
#: Fetch Metadata 2.4: the user typed the address, or a page of the very same origin asks.
HARMLESS_SITES = frozenset((b"none", b"same-origin"))


@dataclass(frozen=True, slots=True)
class Route:
    """One outbound entry. ``rule`` is ``outbound.<entry>``.

    ``listen`` are the values of ``Host`` that mean the listener itself (`listen_hosts`); ``hosts`` and ``origins`` are
    as `parse_host` and `parse_origin` give them. ``paths`` empty: any path, the peer decides; ``methods`` empty: any.
    """

    rule: str
    listen: frozenset[bytes]
    hosts: frozenset[bytes] = frozenset()
    origins: frozenset[bytes] = frozenset()
    paths: tuple[PathPattern, ...] = ()
    methods: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class ConnectionRoute:
    """One outbound entry that carries connections as they are. ``rule`` is ``outbound.<entry>``, ``version`` its policy's."""

    rule: str
    version: str

    def decide_connection(self, *, decision_id: str) -> Permit:
        """Permits: the entry is for whoever can connect to it, and where it leads stands in the entry alone."""
        return Permit(self.rule, decision_id, self.version)


@dataclass(frozen=True, slots=True)
class WebPage:
    """What a browser says about who sent a request; None where it says nothing."""

    origin: bytes | None = None
    site: bytes | None = None


NO_PAGE = WebPage()


def web_page(fields: Iterable[tuple[bytes, bytes, bytes]]) -> WebPage:
    """Reads ``Origin`` (RFC 6454 7) and ``Sec-Fetch-Site`` from (lower-case name, name, value) triples.

    A field that stands twice is joined as RFC 9110 5.3 says, which makes a value that no configuration can name.
    """
    found: dict[bytes, bytes] = {}
    for name, _, value in fields:
        if name in {b"origin", b"sec-fetch-site"}:
            found[name] = found[name] + b", " + value if name in found else value
    return WebPage(found.get(b"origin"), found.get(b"sec-fetch-site")) if found else NO_PAGE


class RouteTable:
    """One compiled entry. ``version`` names the policy it was compiled from.

    ``absolute`` are the authorities of absolute-form targets that it takes, ``connects`` those of CONNECT.
    """

    __slots__ = (
        "_allowed",
        "_entry",
        "_methods",
        "_origin",
        "_origins",
        "_paths",
        "absolute",
        "connects",
        "rule",
        "version",
    )

    def __init__(self, entry: Route, version: str) -> None:
        self.rule = entry.rule
        self.version = version
        self._entry = entry
        self.absolute = frozenset(spelling for host in entry.hosts for spelling in spellings(host))
        self.connects = connect_names(entry.hosts)
        self._origin = self.absolute | entry.listen
        self._origins = entry.origins
        self._methods = entry.methods
        #: The last request that no page sent and that was allowed: what repeats itself is not decided again.
        self._allowed: tuple[bytes, bytes, bytes, bytes] | None = None
        self._paths: PathTree[bool] | None = None
        if entry.paths:
            self._paths = PathTree()
            for pattern in entry.paths:
                self._paths.slot(pattern.segments, lambda: True)

    def route(
        self, method: bytes, authority: bytes, host: bytes, path: bytes, page: WebPage = NO_PAGE, *, decision_id: str
    ) -> Permit | Denial:
        """Decides whether this entry takes a request; raises nothing.

        ``authority`` is that of an absolute-form target and empty for any other form, ``host`` the value of ``Host``
        (empty when absent), both lower-cased; ``path`` is the path exactly as it will be sent, without its query.
        """
        request = (path, host, method, authority)
        if request != self._allowed or page is not NO_PAGE:
            reason, status = self._refusal(method, authority, host, path, page)
            if reason is not None:
                return Denial(reason, decision_id, self.version, status)
            if page is NO_PAGE:
                self._allowed = request
        return Permit(self.rule, decision_id, self.version)

    def connect(self, authority: bytes, page: WebPage = NO_PAGE, *, decision_id: str) -> Permit | Denial:
        """Decides whether this entry takes a CONNECT to ``authority``, which is lower-cased; raises nothing."""
        if page is not NO_PAGE and self._from_web(page):
            return Denial(Reason.WEB_PAGE, decision_id, self.version)
        if authority not in self.connects:
            return Denial(Reason.HOST_NOT_SERVED, decision_id, self.version)
        return Permit(self.rule, decision_id, self.version)

    def bound_to(self, authority: bytes) -> RouteTable:
        """Returns what holds inside a CONNECT to ``authority``: requests name it and nothing else, not the listener.

        Where the entry does not take that CONNECT, it is a table that takes nothing.
        """
        hosts = frozenset((authority,)) & self.connects
        return RouteTable(replace(self._entry, listen=frozenset(), hosts=hosts), self.version)

    def url_of(self, authority: bytes) -> str:
        """Returns the URL by which a client reaches what it named in a CONNECT, without doing TLS itself."""
        name = authority.removesuffix(DEFAULT_PORT)
        if authority not in self.absolute:
            name = name.removesuffix(CONNECT_PORTS[1])
        return f"http://{name.decode('ascii', 'replace')}/"

    def _refusal(
        self, method: bytes, authority: bytes, host: bytes, path: bytes, page: WebPage
    ) -> tuple[DenialReason | None, int]:
        if method in REFUSED_METHODS:
            return Reason.METHOD_REFUSED, NOT_ALLOWED
        if page is not NO_PAGE and self._from_web(page):
            return Reason.WEB_PAGE, 403
        if authority:
            # RFC 9112 3.2.2: a client repeats the authority in Host; a server must not be able to pick another one.
            if host not in {b"", authority} and host not in spellings(authority):
                return Reason.HOST_MISMATCH, BAD_REQUEST
            if authority not in self.absolute:
                return Reason.HOST_NOT_SERVED, 403
        elif host not in self._origin:
            return Reason.HOST_NOT_SERVED, 403
        return self._path_refusal(method, path)

    def _path_refusal(self, method: bytes, path: bytes) -> tuple[DenialReason | None, int]:
        asterisk = path == ASTERISK and method == b"OPTIONS"
        if not asterisk:
            try:
                check_path(path, strict=self._paths is not None)
            except PathError as error:
                return error.code, BAD_REQUEST
        if self._paths is not None and (asterisk or not self._paths.find(path)):
            return Reason.PATH_NOT_ALLOWED, 403
        if self._methods and method not in self._methods:
            return Reason.METHOD_NOT_ALLOWED, 403
        return None, 0

    def _from_web(self, page: WebPage) -> bool:
        if page.origin is not None:
            return page.origin not in self._origins
        return page.site is not None and page.site not in HARMLESS_SITES


#: The values of ``Host`` that mean a listener on a UNIX socket, which has no name of its own: what curl and others write.
SOCKET_HOSTS = frozenset((b"localhost",))


def listen_hosts(address: str, port: int) -> frozenset[bytes]:
    """The values of ``Host`` that mean a listener: its address and ``localhost``, each with the port.

    ``localhost`` may come without it; the address only where it is 80. ``address`` is an IP address without brackets,
    or a lower-case name.
    """
    own = f"[{address}]" if ":" in address else address
    spellings = {f"{own}:{port}", f"localhost:{port}", "localhost"}
    if port == 80:
        spellings.add(own)
    return frozenset(spelling.encode("ascii") for spelling in spellings)


def spellings(host: bytes) -> set[bytes]:
    """``name`` and ``name:80`` are one authority (RFC 9110 4.2.3); any other port is only itself."""
    name = host.removesuffix(DEFAULT_PORT)
    if host != name:
        return {host, name}
    return {host} if _has_port(host) else {host, host + DEFAULT_PORT}


def connect_names(hosts: Iterable[bytes]) -> frozenset[bytes]:
    """What CONNECT, which always has a port, may name for these ``hosts``."""
    return frozenset(
        name for host in hosts for name in ([host] if _has_port(host) else [host + port for port in CONNECT_PORTS])
    )


def alone(claims: Iterable[tuple[T, frozenset[bytes]]]) -> dict[bytes, T]:
    """Returns whose each authority is, where one alone claims it; what two of them claim is neither's."""
    found: dict[bytes, T] = {}
    twice: set[bytes] = set()
    for who, authorities in claims:
        twice |= authorities & found.keys()
        found |= dict.fromkeys(authorities, who)
    return {authority: who for authority, who in found.items() if authority not in twice}


def connects_of(entries: Collection[tuple[T, RouteTable]]) -> dict[bytes, T]:
    """Returns whose each authority of CONNECT is, where these entries share a listener.

    Who names a port has it, also where another one's name without a port would take it in.
    """
    found = alone((who, table.connects) for who, table in entries)
    return found | alone((who, table.connects & table.absolute) for who, table in entries)


def _has_port(host: bytes) -> bool:
    _, _, after = host.rpartition(b"]")
    return b":" in after


class RouteCode(StrEnum):
    """What is wrong with a name in ``hosts`` or ``origins``."""

    HOST_WILDCARD = "host_wildcard"
    HOST_MALFORMED = "host_malformed"
    ORIGIN_MALFORMED = "origin_malformed"


class RouteError(ConfigurationError):
    """An entry of ``hosts`` or ``origins`` that no request could equal."""

    def __init__(self, code: RouteCode, message: str, *, hint: str = "") -> None:
        super().__init__(code, message, hint=hint)
        self.code: RouteCode = code


# RFC 3986 3.2.2 without escapes and sub-delimiters: no client writes those in Host. Ports are 1 to 65535.
_NAME = r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\]"
_PORT = r"[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
_HOST = re.compile(rf"(?:{_NAME})(?::(?:{_PORT}))?")
_ORIGIN = re.compile(rf"[a-z][a-z0-9+.-]*://(?:{_NAME})(?::(?:{_PORT}))?")


def parse_host(text: str) -> bytes:
    """Reads one entry of ``hosts``: ``name`` or ``name:port``, in any case. Raises `RouteError`."""
    lowered = text.lower()
    if "*" in text:
        raise RouteError(RouteCode.HOST_WILDCARD, f"the host {text!r} has a wildcard", hint="name each host")
    if not text.isascii() or _HOST.fullmatch(lowered) is None:
        raise RouteError(
            RouteCode.HOST_MALFORMED,
            f"{text!r} is not a host name, with or without a port",
            hint="write tools.internal or tools.internal:8080: no scheme, no path, ports 1 to 65535",
        )
    return lowered.encode("ascii")


def parse_origin(text: str) -> bytes:
    """Reads one entry of ``origins``: ``scheme://host[:port]`` as a browser sends it (RFC 6454 6.2).

    Never ``null``: any page can make a browser send that. Raises `RouteError`.
    """
    lowered = text.lower()
    if not text.isascii() or _ORIGIN.fullmatch(lowered) is None:
        raise RouteError(
            RouteCode.ORIGIN_MALFORMED,
            f"{text!r} is not the origin of a web page",
            hint="write scheme://host or scheme://host:port, without a slash at its end",
        )
    return lowered.encode("ascii")
