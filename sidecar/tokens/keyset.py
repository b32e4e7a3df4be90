"""An issuer's public keys, from its JWK Set (RFC 7517 5), and the check of a signature by one of them.

The configuration says which algorithms an issuer signs with, and each algorithm has one kind of key here: what a token
says about either is compared with that and decides nothing (RFC 8725 3.1).
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from sidecar.tokens.codes import SourceCode, SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: JWS algorithm (RFC 7518 3.1, RFC 8037 3.1) -> what its key is.
_CURVES: Final[Mapping[str, type[ec.EllipticCurve]]] = {
    "ES256": ec.SECP256R1,
    "ES384": ec.SECP384R1,
    "ES512": ec.SECP521R1,
}
_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_EDDSA: Final = "EdDSA"
ALGORITHMS: Final = frozenset((*_CURVES, *_RSA, _EDDSA))
"""All that may be configured: each has a public key that anybody may have."""

#: RFC 7518 3.3: at least 2048 bits. Beyond the other bound a check takes too long.
_RSA_BITS: Final = range(2048, 8193)
#: Keys of one set that are looked at.
MAX_KEYS: Final = 100
#: Keys that a token without ``kid`` is tried with.
MAX_TRIED: Final = 4


class Key(NamedTuple):
    """One public key. ``alg`` is the only algorithm that it is for, None where it does not say."""

    kid: str | None
    alg: str | None
    key: Any


class KeySet:
    """All keys of an issuer that can check a signature. ``version`` is equal for equal sets."""

    __slots__ = ("_keys", "version")

    def __init__(self, keys: list[Key], version: bytes) -> None:
        self._keys = keys
        self.version = version

    def __len__(self) -> int:
        """Returns how many keys there are."""
        return len(self._keys)

    def find(self, kid: str | None, algorithm: str) -> list[Any]:
        """Returns the keys that a token may be signed with: that of its ``kid``, or without one the first few."""
        suitable = [key for key in self._keys if key.alg in {None, algorithm} and _fits(key.key, algorithm)]
        if kid is not None:
            suitable = [key for key in suitable if key.kid == kid]
        return [key.key for key in suitable[:MAX_TRIED]]


def read_keys(document: Mapping[str, Any]) -> KeySet:
    """Reads a JWK Set; keys that are not for checking signatures, or of a kind that is not served, are left out.

    Raises SourceError (BAD_ANSWER) where none is left: a set without keys is no answer, and would end the old ones.
    """
    entries = document.get("keys")
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise SourceError(
            SourceCode.BAD_ANSWER,
            f"the answer is no JWK Set of at most {MAX_KEYS} keys",
            hint="check `jwks` of this issuer: it is the URL that its metadata names as jwks_uri",
        )
    keys = [key for entry in entries if (key := _read(entry)) is not None]
    if not keys:
        raise SourceError(SourceCode.BAD_ANSWER, "the JWK Set holds no key that signatures can be checked with")
    canonical = json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()
    return KeySet(keys, hashlib.sha256(canonical).digest())


def signature_holds(token: bytes, key: Any, algorithm: str) -> bool:
    """Says whether a compact JWS is signed by a key with that algorithm, which must be one that the key is for."""
    if not _fits(key, algorithm):
        return False
    try:
        jwt.api_jws.PyJWS(algorithms=[algorithm]).decode_complete(token, key=key, algorithms=[algorithm])
    except (jwt.PyJWTError, ValueError, TypeError):
        return False
    return True


def _read(entry: object) -> Key | None:
    # Tuples and not sets: what a garbled entry has there may be a list, which no set can be asked for.
    if not isinstance(entry, dict) or entry.get("kty") not in ("EC", "RSA", "OKP"):
        return None
    kid, alg, operations = entry.get("kid"), entry.get("alg"), entry.get("key_ops")
    for text in (kid, alg):
        if text is not None and not isinstance(text, str):
            return None
    if entry.get("use") not in (None, "sig") or (operations is not None and "verify" not in _list(operations)):
        return None
    if "d" in entry or (alg is not None and alg not in ALGORITHMS):
        # A private key that was published belongs to everybody.
        return None
    try:
        key = jwt.PyJWK(entry, alg or _algorithm_of(entry)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if not any(_fits(key, algorithm) for algorithm in ([alg] if alg else ALGORITHMS)):
        return None
    return Key(kid, alg, key)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _algorithm_of(entry: Mapping[str, Any]) -> str:
    """An algorithm that the library can read such a key for; which ones it is used for is decided by `_fits`."""
    curves = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
    by_type = {"RSA": "RS256", "OKP": _EDDSA, "EC": curves.get(str(entry.get("crv")), "ES256")}
    return by_type[entry["kty"]]


def _fits(key: Any, algorithm: str) -> bool:
    if algorithm in _CURVES:
        return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES[algorithm])
    if algorithm in _RSA:
        return isinstance(key, rsa.RSAPublicKey) and key.key_size in _RSA_BITS
    return algorithm == _EDDSA and isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)
