"""What an allow rule asks of the token that comes with a request, and what a validated token says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from sidecar.tokens.jws import bearer
from sidecar.tokens.settings import MAX_LIFETIME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.identity.peer import Peer

#: A claim's value that a rule can ask for.
Scalar: TypeAlias = "str | int | bool"


@dataclass(frozen=True, slots=True)
class Requirement:
    """The ``token`` of one rule; all of it must hold.

    ``key`` is where it stands in the configuration, for the log. ``issuer`` is the name of an issuer of the configuration,
    or ``self-signed``. ``audience``: the token's one audience is one of these. ``scopes``: it has all of these.
    ``claims``: (path of names, value) pairs; a claim within an object is named by the names on the way to it.
    ``max_lifetime`` in seconds. ``bound``: it must name the caller's certificate; one that names another is refused in any
    case. ``headers``: (field name, claim) pairs for the agent. ``pass_token``: the agent gets the token too.
    """

    key: str
    issuer: str
    audience: frozenset[str]
    scopes: frozenset[str] = frozenset()
    claims: tuple[tuple[tuple[str, ...], Scalar], ...] = ()
    max_lifetime: float = MAX_LIFETIME
    bound: bool = True
    pass_token: bool = False
    headers: tuple[tuple[bytes, str], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Verified:
    """A token whose signature is that of its issuer; whether it helps a request is decided each time anew.

    ``issuer`` is ``iss``. Times are seconds since the epoch. ``bound_to``: the SHA-256 of a certificate's DER, from
    ``cnf`` (RFC 8705 3.1). ``chain_until``: when the chain of a self-signed token ends. ``claims`` are all it says.
    """

    issuer: str
    subject: str | None
    id: str | None
    audience: str
    scopes: frozenset[str]
    issued: float
    expires: float
    not_before: float
    bound_to: bytes | None
    key_id: str | None
    claims: Mapping[str, Any]
    chain_until: float | None = None


class Presented:
    """What came with a request, and who brought it: the value of ``Authorization``, and the proven caller.

    ``digest`` is the SHA-256 of the token in it, None without one. ``waited``: keys were fetched for it already, so it is
    decided by what there is. One may serve again for a request with the same value on the same connection: looking through
    the value costs more than all that is asked about a token whose signature is known to hold.
    """

    __slots__ = ("authorization", "digest", "peer", "waited")

    def __init__(self, authorization: bytes | None, peer: Peer, waited: bool = False) -> None:
        token = bearer(authorization)
        self.authorization = authorization
        self.digest = None if token is None else hashlib.sha256(token).digest()
        self.peer = peer
        self.waited = waited

    @property
    def token(self) -> bytes:
        """The token itself; empty without one."""
        return bearer(self.authorization) or b""
