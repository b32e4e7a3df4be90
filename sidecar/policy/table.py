"""Allow rules compiled to look-ups: ten thousand of them cost a request what ten cost.

Each rule is filed under its caller (a name, a parent or a prefix), there under its paths, there under its pins, and
there under its methods; a decision follows the same way with the request in hand. What depends on the peer alone is
found once per connection (`Table.for_peer`) and asked for every request on it (`PeerRules.decide`).

Rules are a union: any that matches allows, order means nothing. Of several that match, the permit names the first in
the order given, so that the same request is always logged alike. A rule that asks for a token matches only with one: such
rules are filed beside the others, and looked at with the token in hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from sidecar.identity.pattern import Tail
from sidecar.identity.spiffe import SCHEME
from sidecar.policy.decision import BAD_REQUEST, NOT_ALLOWED, Denial, Permit, Reason
from sidecar.policy.paths import PathError, check_path
from sidecar.policy.token_rules import decide_by_token
from sidecar.policy.tree import PathTree

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.identity.peer import Peer
    from sidecar.policy.rules import Rule
    from sidecar.policy.token_rules import Asking, AskToken
    from sidecar.tokens.outcome import KeysWanted

#: The position of a rule, and its id.
_Hit: TypeAlias = "tuple[int, str]"

#: RFC 9110 9.3.6 and 9.3.8: a tunnel is not a request to forward, and an echo would show what the proxy added.
REFUSED_METHODS = frozenset((b"CONNECT", b"TRACE"))
#: RFC 9112 3.2.4: OPTIONS about the server as a whole. It has no path, so only a rule without paths can allow it.
ASTERISK = b"*"


class _Methods:
    """What one pin allows at one path: method, or None for any -> the first rule, and all those that ask for a token."""

    __slots__ = ("asking", "free")

    def __init__(self) -> None:
        self.free: dict[bytes | None, _Hit] = {}
        self.asking: dict[bytes | None, list[Asking]] = {}

    def file(self, position: int, rule: Rule) -> None:
        for method in rule.methods or (None,):
            if rule.token is None:
                self.free.setdefault(method, (position, rule.id))
            else:
                self.asking.setdefault(method, []).append((position, rule.id, rule.token))

    def join(self, other: _Methods) -> None:
        """Takes the rules of another one in."""
        for method, hit in other.free.items():
            self.free[method] = min(hit, self.free.get(method, hit))
        for method, rules in other.asking.items():
            self.asking.setdefault(method, []).extend(rules)


#: digest of a pin, or None for any -> what it allows
_Pinned: TypeAlias = "dict[bytes | None, _Methods]"


class _Group:
    """All rules of one caller pattern."""

    __slots__ = ("anywhere", "paths", "pins")

    def __init__(self) -> None:
        self.anywhere: _Pinned = {}
        self.paths: PathTree[_Pinned] | None = None
        self.pins: set[bytes | None] = set()

    def add(self, position: int, rule: Rule) -> None:
        self.pins.update(_pins(rule))
        if not rule.paths:
            _file(self.anywhere, position, rule)
            return
        if self.paths is None:
            self.paths = PathTree()
        for pattern in rule.paths:
            _file(self.paths.slot(pattern.segments, dict), position, rule)


def _file(pinned: _Pinned, position: int, rule: Rule) -> None:
    for pin in _pins(rule):
        pinned.setdefault(pin, _Methods()).file(position, rule)


def _pins(rule: Rule) -> list[bytes | None]:
    return [pin.digest for pin in rule.pins] or [None]


class Table:
    """The compiled rules of one listener. ``version`` names the policy that they were compiled from.

    ``asks``: some rule asks for a token.
    """

    __slots__ = ("_below", "_children", "_exact", "asks", "version")

    def __init__(self, version: str) -> None:
        """Makes a table that denies everything; `compile` fills one."""
        self.version = version
        self.asks = False
        self._exact: dict[str, _Group] = {}
        self._children: dict[str, _Group] = {}
        self._below: dict[str, _Group] = {}

    @classmethod
    def compile(cls, rules: Iterable[Rule], version: str) -> Table:
        """Files the rules; an empty list makes a table that denies everything."""
        table = cls(version)
        kinds = {Tail.EXACT: table._exact, Tail.ONE: table._children, Tail.MANY: table._below}
        for position, rule in enumerate(rules):
            caller = rule.caller
            name = "/".join((f"{SCHEME}{caller.trust_domain}", *caller.segments))
            groups = kinds[caller.tail]
            if name not in groups:
                groups[name] = _Group()
            groups[name].add(position, rule)
            table.asks = table.asks or rule.token is not None
        return table

    def for_peer(self, peer: Peer) -> PeerRules:
        """Returns what this table has for a peer: found once for a connection, good until the table is replaced."""
        return PeerRules(self.version, peer, self._groups(str(peer.id)))

    def _groups(self, name: str) -> list[_Group]:
        found = [self._exact.get(name)]
        end = name.rfind("/", len(SCHEME))
        if end > 0:
            found.append(self._children.get(name[:end]))
        # One look-up for each parent: bounded by the name's length, not by the number of rules.
        while self._below and end > 0:
            found.append(self._below.get(name[:end]))
            end = name.rfind("/", len(SCHEME), end)
        return [group for group in found if group is not None]


class PeerRules:
    """The rules of one table that name one peer and its key."""

    __slots__ = ("_anywhere", "_found", "_not_after", "_not_before", "_paths", "_pin", "_refusal", "version")

    def __init__(self, version: str, peer: Peer, groups: list[_Group]) -> None:
        self.version = version
        self._pin = peer.pin.digest
        self._not_before = peer.not_before
        self._not_after = peer.not_after
        #: The last request that could be allowed, as (method, path), and by which rules: what repeats itself is not looked
        #: up again.
        self._found: tuple[bytes, bytes, _Hit | None, list[Asking]] | None = None
        self._refusal: Reason | None = None
        if not groups:
            self._refusal = Reason.CALLER_NOT_NAMED
        elif not any(None in group.pins or self._pin in group.pins for group in groups):
            self._refusal = Reason.PIN_MISMATCH
        self._paths = [group.paths for group in groups if group.paths is not None]
        self._anywhere = _Methods()
        for group in groups:
            for pin in (None, self._pin):
                if (methods := group.anywhere.get(pin)) is not None:
                    self._anywhere.join(methods)

    def decide(
        self, method: bytes, path: bytes, *, decision_id: str, now: float, ask: AskToken | None = None
    ) -> Permit | Denial | KeysWanted:
        """Decides one request; raises nothing.

        ``path`` is the path exactly as it will be sent, without its query, or ``*``. ``now`` is in seconds since the
        epoch; the peer's whole chain must be valid then (RFC 5280 4.1.2.5: both ends included). ``ask`` says whether the
        request's token meets a requirement; without it none does. KeysWanted: the same question can be answered once
        these keys were fetched.
        """
        refusal = self._peer_refusal(now)
        if refusal is not None:
            return Denial(refusal, decision_id, self.version)
        found = self._found
        if found is None or path != found[1] or method != found[0]:
            denial = self._look_up(method, path, decision_id)
            if denial is not None:
                return denial
            found = self._found
            assert found is not None  # noqa: S101 - what is no denial was found
        hit, asking = found[2], found[3]
        if not asking and hit is not None:
            return Permit(hit[1], decision_id, self.version)
        return decide_by_token(asking, hit, ask, decision_id=decision_id, version=self.version)

    def _look_up(self, method: bytes, path: bytes, decision_id: str) -> Denial | None:
        """Finds the rules that allow a request, or what speaks against it whatever its token."""
        if method in REFUSED_METHODS:
            return Denial(Reason.METHOD_REFUSED, decision_id, self.version, NOT_ALLOWED)
        asterisk = path == ASTERISK and method == b"OPTIONS"
        if not asterisk:
            try:
                check_path(path, strict=True)
            except PathError as error:
                return Denial(error.code, decision_id, self.version, BAD_REQUEST)
        matching = [self._anywhere]
        if self._paths and not asterisk:
            matching += self._on_paths(path)
        hit: _Hit | None = None
        asking: list[Asking] = []
        for methods in matching:
            for name in (method, None):
                free = methods.free.get(name)
                if free is not None and (hit is None or free < hit):
                    hit = free
                asking += methods.asking.get(name, ())
        if hit is None and not asking:
            somewhere = any(methods.free or methods.asking for methods in matching)
            reason = Reason.METHOD_NOT_ALLOWED if somewhere else Reason.PATH_NOT_ALLOWED
            return Denial(reason, decision_id, self.version)
        # A rule may be there twice, for two of its paths.
        self._found = (method, path, hit, sorted({rule[0]: rule for rule in asking}.values(), key=_position))
        return None

    def decide_connection(self, *, decision_id: str, now: float) -> Permit | Denial:
        """Decides a connection whose bytes nobody will look into; raises nothing.

        A rule with methods or paths never allows one: what it asks for could not be checked. ``now`` as in `decide`.
        """
        refusal = self._peer_refusal(now)
        if refusal is not None:
            return Denial(refusal, decision_id, self.version)
        hit = self._anywhere.free.get(None)
        if hit is None:
            return Denial(Reason.RULE_NEEDS_REQUEST, decision_id, self.version)
        return Permit(hit[1], decision_id, self.version)

    def _peer_refusal(self, now: float) -> Reason | None:
        """What speaks against this peer, whatever it asks for."""
        if not self._not_before <= now <= self._not_after:
            early = now < self._not_before
            return Reason.CERTIFICATE_NOT_YET_VALID if early else Reason.CERTIFICATE_EXPIRED
        return self._refusal

    def _on_paths(self, path: bytes) -> list[_Methods]:
        found = [pinned.get(pin) for tree in self._paths for pinned in tree.find(path) for pin in (None, self._pin)]
        return [methods for methods in found if methods is not None]


def _position(rule: Asking) -> int:
    return rule[0]


def decide(
    table: Table, peer: Peer, method: bytes, path: bytes, *, decision_id: str, now: float, ask: AskToken | None = None
) -> Permit | Denial | KeysWanted:
    """Decides one request of a proven peer: what `Table.for_peer` and `PeerRules.decide` do, in one step."""
    return table.for_peer(peer).decide(method, path, decision_id=decision_id, now=now, ask=ask)
