"""The tokens that a signer service may sign: what their JWS signing inputs are, to the octet.

A signing input is BASE64URL(header) "." BASE64URL(claims) (RFC 7515 5.1). Of each there is one spelling, the one that we
write ourselves: JSON without blanks, its names in the order given here, each once, and base64url without padding. A
message is taken apart with what forgives most, put together again, and has to come out as it went in. So no two readers
can see two tokens in what is signed here.

* ``sidecar+jwt``, a self-signed token: header ``alg``, ``typ``, ``x5c``; claims ``iss``, ``sub``, ``aud``, ``iat``, ``exp``,
  ``jti``, ``cnf`` (RFC 7800; ``x5t#S256`` by RFC 8705 3.1).
* ``JWT``, with which a client proves to an issuer who it is (RFC 7523 3): header ``alg``, ``typ``, ``x5t#S256`` and
  perhaps ``kid``; claims ``iss``, ``sub``, ``aud``, ``iat``, ``exp``, ``jti``.

Times in tokens are whole seconds since the epoch.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.identity.facts import Facts
from sidecar.identity.refusal import VerificationError
from sidecar.keys.messages import MAX_BYTES

if TYPE_CHECKING:
    from sidecar.identity.spiffe import SpiffeId

#: How long a token of each kind lives at most, and how far its beginning and our clock may be apart: seconds.
SELF_SIGNED_SECONDS: Final = 300
ASSERTION_SECONDS: Final = 60
CLOCK_SECONDS: Final = 60
#: As many as a chain may have: `sidecar.identity.verify.MAX_CHAIN_CERTIFICATES`.
MAX_CERTIFICATES: Final = 8

_SELF_SIGNED_HEADER: Final = ("alg", "typ", "x5c")
_SELF_SIGNED_CLAIMS: Final = ("iss", "sub", "aud", "iat", "exp", "jti", "cnf")
_ASSERTION_HEADERS: Final = (("alg", "typ", "x5t#S256"), ("alg", "typ", "x5t#S256", "kid"))
_ASSERTION_CLAIMS: Final = ("iss", "sub", "aud", "iat", "exp", "jti")

#: Of the name of a service, an issuer, a client or a key, in characters.
MAX_NAME: Final = 1024
#: 128 random bits.
_JTI: Final = re.compile(r"[A-Za-z0-9_-]{22}")
#: A SHA-256 in base64url. The last character has four bits of it and two that are zero.
_THUMBPRINT: Final = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")


class Client(NamedTuple):
    """A client and the issuer that knows it: ``client_id`` is iss and sub of its assertions, ``audience`` their aud."""

    audience: str
    client_id: str


@dataclass(frozen=True, slots=True)
class Mandate:
    """Which tokens a service may sign. By itself none.

    ``spiffe_id`` is that of self-signed tokens; ``clients`` are those that assertions are signed for.
    """

    spiffe_id: SpiffeId | None = None
    clients: frozenset[Client] = frozenset()


def is_name(text: object) -> bool:
    """Says whether it may name an audience, a client or a key: 1 to 1024 characters, and no control ones among them."""
    return isinstance(text, str) and 0 < len(text) <= MAX_NAME and text.isprintable()


@dataclass(frozen=True, slots=True)
class SelfSigned:
    """Recognises self-signed tokens of one SPIFFE ID and one key.

    ``reserved`` are audiences they are not signed for: the issuers to whom the same service proves who a client is. An
    issuer that does not look at ``typ`` could take one for an assertion that lives five times as long.
    """

    public_key: ec.EllipticCurvePublicKey
    spiffe_id: str
    reserved: frozenset[str] = frozenset()

    def knows(self, message: bytes, now: float) -> bool:
        """Says whether a message is one at ``now``, seconds since the epoch."""
        found = _parts(message)
        if found is None:
            return False
        header, claims = found
        if tuple(header) != _SELF_SIGNED_HEADER or tuple(claims) != _SELF_SIGNED_CLAIMS:
            return False
        return (
            header["alg"] == _algorithm(self.public_key)
            and header["typ"] == "sidecar+jwt"
            and claims["iss"] == claims["sub"] == self.spiffe_id
            and is_name(claims["aud"])
            and _origin(claims["aud"]) not in {_origin(each) for each in self.reserved}
            and _is_short(claims, SELF_SIGNED_SECONDS, now)
            and self._is_bound(header["x5c"], claims["cnf"])
        )

    def _is_bound(self, x5c: object, cnf: object) -> bool:
        leaf = _leaf(x5c, self.public_key)
        return leaf is not None and cnf == {"x5t#S256": _base64url(hashlib.sha256(leaf).digest())}


@dataclass(frozen=True, slots=True)
class Assertions:
    """Recognises the assertions of some clients, each to its issuer, with one key."""

    public_key: ec.EllipticCurvePublicKey
    clients: frozenset[Client]

    def knows(self, message: bytes, now: float) -> bool:
        """Says whether a message is one at ``now``, seconds since the epoch."""
        found = _parts(message)
        if found is None:
            return False
        header, claims = found
        if tuple(header) not in _ASSERTION_HEADERS or tuple(claims) != _ASSERTION_CLAIMS:
            return False
        return (
            header["alg"] == _algorithm(self.public_key)
            and header["typ"] == "JWT"
            and _matches(_THUMBPRINT, header["x5t#S256"])
            and ("kid" not in header or is_name(header["kid"]))
            and is_name(claims["aud"])
            and is_name(claims["iss"])
            and claims["iss"] == claims["sub"]
            and Client(claims["aud"], claims["iss"]) in self.clients
            and _is_short(claims, ASSERTION_SECONDS, now)
        )


def _parts(message: bytes) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Returns header and claims of a signing input in its one spelling; None for all else."""
    parts = message.split(b".", 2)
    if len(message) > MAX_BYTES or len(parts) != 2:
        return None
    try:
        header, claims = (json.loads(_bytes(part).decode("ascii")) for part in parts)
        again = f"{_spelled(header)}.{_spelled(claims)}".encode("ascii")
    except (ValueError, RecursionError):  # no base64, no ASCII, no JSON, a number of 5000 digits; too deep
        return None
    if not isinstance(header, dict) or not isinstance(claims, dict) or again != message:
        return None
    return header, claims


def _spelled(part: object) -> str:
    # A name that stands twice is lost on the way, and blanks, escapes and bits that mean nothing. NaN is not lost: it is
    # for what looks at the members to refuse, as every number is that is not whole.
    return _base64url(json.dumps(part, separators=(",", ":")).encode("ascii"))


def _bytes(part: bytes) -> bytes:
    return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _origin(name: str) -> str:
    """Scheme, host and port of a URL, in lower case: an issuer may take those of its endpoints for its own name."""
    return "/".join(name.split("/", 3)[:3]).lower() if "://" in name else name


def _algorithm(public_key: ec.EllipticCurvePublicKey) -> str:
    """The name of signatures by a key (RFC 7518 3.4)."""
    return "ES384" if isinstance(public_key.curve, ec.SECP384R1) else "ES256"


def _matches(pattern: re.Pattern[str], text: object) -> bool:
    return isinstance(text, str) and pattern.fullmatch(text) is not None


def _is_short(claims: dict[str, Any], seconds: int, now: float) -> bool:
    """Says whether a token is of this moment, lives no longer than that, and cannot be mistaken for another."""
    begins, ends = claims["iat"], claims["exp"]
    return (
        type(begins) is type(ends) is int  # True is an int to isinstance
        and now - CLOCK_SECONDS <= begins <= now + CLOCK_SECONDS
        and 0 < ends - begins <= seconds
        and _matches(_JTI, claims["jti"])
    )


def _leaf(x5c: object, public_key: ec.EllipticCurvePublicKey) -> bytes | None:
    """Returns the first of one to eight certificates (RFC 7515 4.1.6) if that is for the key, in DER; else None."""
    if not isinstance(x5c, list) or not 0 < len(x5c) <= MAX_CERTIFICATES:
        return None
    ders = [der for der in map(_decoded, x5c) if der is not None]
    if len(ders) != len(x5c):
        return None
    try:
        leaf, *_ = [Facts.of_der(der) for der in ders]
    except VerificationError:
        return None
    return ders[0] if leaf.public_key == public_key else None


def _decoded(text: object) -> bytes | None:
    """Reads canonical base64 (RFC 4648 4); None for all else."""
    if not isinstance(text, str):
        return None
    try:
        data = base64.b64decode(text)
    except ValueError:
        return None
    return data if base64.b64encode(data).decode("ascii") == text else None
