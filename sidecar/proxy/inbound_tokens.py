"""What an inbound entry does with the tokens of its callers: has them judged, and tells the agent what they said."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Protocol

from sidecar.http.fields import fold
from sidecar.tokens.requirement import Presented

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from sidecar.identity.peer import Peer
    from sidecar.policy.rules import Rule
    from sidecar.proxy.exchange import Exchange
    from sidecar.tokens.judge import Judge
    from sidecar.tokens.leaves import RecentLeaves
    from sidecar.tokens.outcome import Admitted, KeysWanted, Refused
    from sidecar.tokens.requirement import Requirement

_AUTHORIZATION: Final = frozenset({b"authorization"})
#: What a field may hold of a claim: printable ASCII, not blank at its ends (RFC 9110 5.5).
_FIELD_VALUE: Final = re.compile(r"[!-~](?:[ -~]{0,1022}[!-~])?")


#: How often it is noted that a caller shows its certificate, in seconds: it matters when another one has taken its place.
NOTE_SECONDS: Final = 1.0


class Refreshing(Protocol):
    """The keys of one issuer, which can be waited for."""

    async def refreshed(self) -> None:
        """Waits for the fetch that is under way or due; raises nothing."""


class Asker:
    """What decides about the tokens of one connection's requests; what it found out of one serves for the next."""

    __slots__ = ("_caller", "_judge", "_leaves", "_noted", "_now", "_presented", "peer")

    def __init__(self, judge: Judge, leaves: RecentLeaves, peer: Peer) -> None:
        self.peer = peer
        self._judge = judge
        self._leaves = leaves
        self._caller = str(peer.id)
        self._presented = Presented(None, peer)
        self._now = 0.0
        self._noted: float | None = None

    def about(self, authorization: bytes | None, now: float, *, waited: bool) -> None:
        """Turns to a request: with which ``Authorization`` it came, and when."""
        self._now = now
        if self._noted is None or not 0 <= now - self._noted < NOTE_SECONDS:
            self._noted = now
            self._leaves.note(self._caller, self.peer.leaf_sha256, now)
        presented = self._presented
        if presented.authorization != authorization or presented.waited != waited:
            self._presented = Presented(authorization, self.peer, waited)

    def __call__(self, requirement: Requirement) -> Admitted | Refused | KeysWanted:
        """Decides whether the request's token meets a requirement."""
        return self._judge.judge(requirement, self._presented, self._leaves, self._now)


class TokenCheck:
    """One for each inbound entry whose rules ask for tokens. ``leaves`` lives as long as the entry's name does."""

    def __init__(
        self, judge: Judge, keys: Mapping[str, Refreshing], leaves: RecentLeaves, rules: Iterable[Rule]
    ) -> None:
        self._judge = judge
        self._keys = keys
        self.leaves = leaves
        # Of every rule: a caller that another rule lets through must not write what this rule would have set.
        named = {name for rule in rules if rule.token is not None for name, _ in rule.token.headers}
        self.strip = frozenset(fold(name.lower()) for name in named)
        self._strip_with_token = self.strip | _AUTHORIZATION

    def asker(self, exchange: Exchange, now: float, before: Asker | None = None) -> Asker:
        """Returns what decides about the token of one request; ``now`` is in seconds since the epoch.

        ``before`` is what was returned for the connection's last request, which is over: it may be returned again.
        """
        peer = exchange.down.peer
        if peer is None:
            raise RuntimeError("a connection without a proven peer was asked for a token")
        asker = Asker(self._judge, self.leaves, peer) if before is None or before.peer is not peer else before
        asker.about(exchange.facts.authorization, now, waited=exchange.waited > 0)
        return asker

    def keys_of(self, issuer: str) -> Callable[[], Coroutine[Any, Any, None]]:
        """Returns what waits for an issuer's keys."""
        return self._keys[issuer].refreshed

    def forwarded(self, admitted: Admitted | None) -> tuple[bytes, frozenset[bytes]]:
        """Returns the field lines for the agent, and the folded names of those of the caller's that stay behind."""
        if admitted is None:
            return b"", self.strip
        requirement, token = admitted
        strip = self.strip if requirement.pass_token else self._strip_with_token
        if not requirement.headers:
            return b"", strip
        lines = [_line(name, token.claims.get(claim)) for name, claim in requirement.headers]
        return b"".join(lines), strip


def _line(name: bytes, value: object) -> bytes:
    """A claim as a field; none where a field cannot hold it as it is."""
    if isinstance(value, list) and all(isinstance(each, str) and each and " " not in each for each in value):
        value = " ".join(value)
    elif isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, int):
        value = str(value)
    if not isinstance(value, str) or _FIELD_VALUE.fullmatch(value) is None:
        return b""
    return b"%b: %b\r\n" % (name, value.encode("ascii"))
