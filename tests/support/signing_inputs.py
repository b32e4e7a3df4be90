"""Signing inputs of tokens (RFC 7515 5.1), written by hand: good ones, for tests to spoil."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from sidecar.keys.messages import MAX_BYTES
from tests.support.ca import Ca

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.ca import Identity

ISSUER = "https://issuer.example.org"
JTI = "abcdefghijkl_-ABCDEF01"


class Parts(NamedTuple):
    """Header and claims."""

    header: dict[str, Any]
    claims: dict[str, Any]

    @property
    def message(self) -> bytes:
        return joined(json.dumps(self.header, separators=(",", ":")), json.dumps(self.claims, separators=(",", ":")))


def joined(header: str | bytes, claims: str | bytes) -> bytes:
    """The signing input of two texts, whatever they say."""
    return f"{base64url(header)}.{base64url(claims)}".encode()


def base64url(part: str | bytes) -> str:
    data = part.encode() if isinstance(part, str) else part
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def self_signed(
    chain: Sequence[bytes],
    spiffe_id: str,
    now: float,
    *,
    alg: str = "ES256",
    lifetime: int = 300,
    audience: str = "tools",
) -> Parts:
    """A self-signed token; ``chain`` is DER, leaf first."""
    header = {"alg": alg, "typ": "sidecar+jwt", "x5c": [base64.b64encode(each).decode() for each in chain]}
    names = {"iss": spiffe_id, "sub": spiffe_id, "aud": audience}
    bound = {"x5t#S256": base64url(hashlib.sha256(chain[0]).digest())}
    return Parts(header, {**names, "iat": int(now), "exp": int(now) + lifetime, "jti": JTI, "cnf": bound})


def assertion(client: str, audience: str, now: float, *, alg: str = "ES256", lifetime: int = 60) -> Parts:
    """An assertion by which a client proves who it is."""
    header = {"alg": alg, "typ": "JWT", "x5t#S256": base64url(hashlib.sha256(b"a certificate").digest())}
    names = {"iss": client, "sub": client, "aud": audience}
    return Parts(header, {**names, "iat": int(now), "exp": int(now) + lifetime, "jti": JTI})


def longest(identity: Identity, now: float) -> Parts:
    """The longest self-signed token that may be signed for a key, up to two octets, which base64url has no use for."""
    ca = Ca(now=now)
    leaf = ca.leaf(key=identity.key, dns_names=[f"{'x' * 60}.{number:03d}" for number in range(120)]).der
    made = [self_signed(leaf, str(identity.id), now, audience="x" * length) for length in range(1, 1025)]
    return max((each for each in made if len(each.message) <= MAX_BYTES), key=lambda each: len(each.message))
