"""Decides whether the token of a request meets a rule's requirement. Pure: keys and time are given.

Only that a signature holds is remembered, under the token's SHA-256 with the version of the keys, or of the trust, that it
was checked with. Everything else is decided for each request anew: times, audience, the connection's certificate, scopes,
claims. The order of the questions is such that nothing is fetched, and nobody is accused, for a token that is bad by itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

from sidecar.tokens.claims import read_claims, read_header
from sidecar.tokens.codes import TokenCode, TokenError
from sidecar.tokens.jws import parse
from sidecar.tokens.keyset import KeySet, signature_holds
from sidecar.tokens.outcome import Admitted, KeysWanted, Refused
from sidecar.tokens.requirement import Presented, Requirement, Verified
from sidecar.tokens.self_signed import LEEWAY, read_self_signed, verify_self_signed
from sidecar.tokens.settings import SELF_SIGNED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.identity.bundle import Bundles
    from sidecar.identity.peer import Peer
    from sidecar.tokens.jws import Jws
    from sidecar.tokens.leaves import RecentLeaves
    from sidecar.tokens.settings import Issuer

#: Tokens remembered.
REMEMBERED: Final = 1024
#: How long they may be together. In memory one takes up to some twenty times its length (lists of empty lists), and into
#: a self-signed one its caller writes what it likes.
REMEMBERED_BYTES: Final = 1024 * 1024

Outcome: TypeAlias = "Admitted | Refused | KeysWanted"


class KeyHolder(Protocol):
    """The keys of one issuer, as they are known now."""

    def current(self) -> KeySet | None:
        """The keys to check with; None where there are none, or they are too old."""

    def may_refresh(self) -> bool:
        """Whether waiting can bring newer ones: a fetch is under way, or is allowed again."""


class Known(NamedTuple):
    """A token whose signature holds by the keys, or the trust, of that version. ``size`` is its length in bytes."""

    version: bytes
    token: Verified
    size: int


#: The SHA-256 of a token, and the name of the issuer that it was checked for.
_Place: TypeAlias = tuple[bytes, str]


class Memory:
    """Tokens whose signature holds; the one remembered first is forgotten first."""

    __slots__ = ("_found", "_most", "_most_bytes", "_size")

    def __init__(self, most: int = REMEMBERED, most_bytes: int = REMEMBERED_BYTES) -> None:
        self._found: dict[_Place, Known] = {}
        self._size = 0
        self._most = most
        self._most_bytes = most_bytes

    def get(self, place: _Place) -> Known | None:
        """Returns what is remembered of a token, by whatever version."""
        return self._found.get(place)

    def put(self, place: _Place, known: Known) -> None:
        """Remembers a token, in the place of what was known of it before."""
        self._forget(place)
        self._found[place] = known
        self._size += known.size
        while len(self._found) > self._most or self._size > self._most_bytes:
            self._forget(next(iter(self._found)))

    def _forget(self, place: _Place) -> None:
        known = self._found.pop(place, None)
        if known is not None:
            self._size -= known.size


class Judge:
    """One for each configuration. ``memory`` may be handed on from one to the next: it names what was checked with."""

    __slots__ = ("_bundles", "_issuers", "_keys", "_last", "_trust_version", "memory")

    def __init__(
        self,
        issuers: Mapping[str, Issuer],
        keys: Mapping[str, KeyHolder],
        bundles: Bundles,
        memory: Memory | None = None,
    ) -> None:
        self._issuers = issuers
        self._keys = keys
        self._bundles = bundles
        self._trust_version = trust_version(bundles)
        #: The token that was taken apart last, and its SHA-256: for the next rule that asks about it.
        self._last: tuple[bytes, Jws] | None = None
        self.memory = Memory() if memory is None else memory

    def judge(self, requirement: Requirement, presented: Presented, leaves: RecentLeaves, now: float) -> Outcome:
        """Decides; raises nothing. ``now`` is in seconds since the epoch."""
        if presented.digest is None:
            return Refused(TokenCode.MISSING, requirement)
        try:
            verified = self._verified(requirement, presented, (presented.digest, requirement.issuer), now)
        except TokenError as error:
            return Refused(error.code, requirement, detail=str(error))
        if not isinstance(verified, Verified):
            return verified
        return self._admit(requirement, verified, presented.peer, leaves, now)

    # -- who signed it --------------------------------------------------------------------------------------------------

    def _verified(
        self, requirement: Requirement, presented: Presented, place: _Place, now: float
    ) -> Verified | Refused | KeysWanted:
        known = self.memory.get(place)
        if requirement.issuer == SELF_SIGNED:
            if known is not None and known.version == self._trust_version:
                _check_use(requirement, known.token, LEEWAY, now)
                return known.token
            return self._check_self_signed(requirement, presented.token, place, now)
        if known is not None:
            _check_use(requirement, known.token, self._issuers[requirement.issuer].leeway, now)
            keys = self._keys[requirement.issuer].current()
            if keys is not None and keys.version == known.version:
                return known.token
        return self._check(requirement, presented.token, place, now, waited=presented.waited)

    def _check_self_signed(self, requirement: Requirement, token: bytes, place: _Place, now: float) -> Verified:
        jws = self._parsed(token, place[0])
        _check_use(requirement, read_self_signed(jws)[1], LEEWAY, now)
        verified = verify_self_signed(token, jws, self._bundles, now)
        self.memory.put(place, Known(self._trust_version, verified, len(token)))
        return verified

    def _check(
        self, requirement: Requirement, token: bytes, place: _Place, now: float, *, waited: bool
    ) -> Verified | Refused | KeysWanted:
        issuer, holder = self._issuers[requirement.issuer], self._keys[requirement.issuer]
        jws = self._parsed(token, place[0])
        header = read_header(jws.header, algorithms=issuer.algorithms, typ=issuer.typ)
        said = read_claims(jws.claims)
        if said.issuer != issuer.issuer:
            raise TokenError(TokenCode.ISSUER, "the token is of another issuer")
        _check_use(requirement, said, issuer.leeway, now)
        keys = holder.current()
        found = [] if keys is None else keys.find(header.key_id, header.algorithm)
        if not found or keys is None:
            if not waited and holder.may_refresh():
                return KeysWanted(issuer.name)
            code = TokenCode.ISSUER_UNAVAILABLE if keys is None else TokenCode.KEY_UNKNOWN
            return Refused(code, requirement, detail="no key of the issuer is that of the token")
        if not any(signature_holds(token, key, header.algorithm) for key in found):
            raise TokenError(TokenCode.SIGNATURE, "the signature is not one by a key of the issuer")
        verified = replace(said, key_id=header.key_id)
        self.memory.put(place, Known(keys.version, verified, len(token)))
        return verified

    def _parsed(self, token: bytes, digest: bytes) -> Jws:
        if self._last is None or self._last[0] != digest:
            self._last = (digest, parse(token))
        return self._last[1]

    # -- whether it helps this request ------------------------------------------------------------------------------------

    def _admit(
        self, requirement: Requirement, token: Verified, peer: Peer, leaves: RecentLeaves, now: float
    ) -> Admitted | Refused:
        if token.bound_to is not None and token.bound_to != peer.leaf_sha256:
            rotated = leaves.recent(str(peer.id), token.bound_to, now)
            return Refused(TokenCode.ROTATED if rotated else TokenCode.BOUND_ELSEWHERE, requirement, token)
        if token.bound_to is None and requirement.bound:
            return Refused(TokenCode.NOT_BOUND, requirement, token)
        if token.chain_until is not None and now > token.chain_until:
            return Refused(TokenCode.CHAIN, requirement, token)
        lifetime = token.expires - token.issued
        if lifetime > requirement.max_lifetime:
            signed = f", signed by {token.key_id}" if token.key_id else ""
            allowed = f"{requirement.key}.max_lifetime is {requirement.max_lifetime:g} s"
            detail = f"it lives {lifetime:g} s, and {allowed}{signed}"
            return Refused(TokenCode.LIVES_TOO_LONG, requirement, token, detail)
        for path, wanted in requirement.claims:
            if not _equal(_claim(token.claims, path), wanted):
                return Refused(TokenCode.CLAIM_VALUE, requirement, token, f"the claim {'.'.join(path)} is another")
        # Last: what lacks nothing but these is told so (RFC 6750 3.1).
        if not requirement.scopes <= token.scopes:
            return Refused(TokenCode.SCOPE, requirement, token)
        return Admitted(requirement, token)


def trust_version(bundles: Bundles) -> bytes:
    """Returns a digest that is equal for bundles of equal content."""
    content = hashlib.sha256()
    for domain in sorted(bundles, key=str):
        content.update(f"{domain}\0".encode() + bundles[domain].fingerprint)
    return content.digest()


def _check_use(requirement: Requirement, token: Verified, leeway: float, now: float) -> None:
    """Holds a token to time and audience. Raises TokenError."""
    if now >= token.expires + leeway:
        raise TokenError(TokenCode.EXPIRED, "the token has expired")
    if now < token.not_before - leeway:
        raise TokenError(TokenCode.NOT_YET_VALID, "the token is not valid yet")
    if now < token.issued - leeway:
        raise TokenError(TokenCode.ISSUED_IN_FUTURE, "the token was issued in the future")
    if token.audience not in requirement.audience:
        raise TokenError(TokenCode.AUDIENCE, "the token is for another audience")


def _claim(claims: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = claims
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    return value


def _equal(found: Any, wanted: object) -> bool:
    # True is 1 to Python, and 1.0 is 1.
    return type(found) is type(wanted) and found == wanted
