"""Inbound tokens, good and hostile: signed by `cryptography` alone, so that nothing of ours judges its own writing.

`token` writes a good one of `ISSUER` and takes changes of its header and claims; `self_signed` does so for a workload's
own; `compact` signs whatever bytes it is given. `Court` has them judged as the proxy does.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from sidecar.tokens.judge import Judge, Memory
from sidecar.tokens.keyset import KeySet, read_keys
from sidecar.tokens.leaves import RecentLeaves
from sidecar.tokens.outcome import Admitted, KeysWanted
from sidecar.tokens.requirement import Presented, Requirement
from sidecar.tokens.settings import SELF_SIGNED, Issuer
from tests.support.ca import Ca, Identity, keypair
from tests.support.rules import NOW, PLANNER, proven

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sidecar.identity.bundle import Bundles
    from sidecar.identity.peer import Peer
    from sidecar.tokens.codes import TokenCode
    from sidecar.tokens.judge import Outcome
    from sidecar.tokens.requirement import Verified

Private: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


class Absent(enum.Enum):
    """In the place of a header parameter or a claim: it is left out."""

    DROP = "left out"


DROP: Final = Absent.DROP

ISSUER: Final = Issuer("corp", "https://issuer.example", "https://issuer.example/jwks", ("ES256",))
AUDIENCE: Final = "https://tools.internal"
KEY_ID: Final = "k1"
REQUIREMENT: Final = Requirement("inbound[0].allow[0].token", "corp", frozenset({AUDIENCE}))
OF_SELF: Final = dataclasses.replace(REQUIREMENT, issuer=SELF_SIGNED)

#: The certificate of the caller on whose connection tokens arrive, as its digest, and of somebody else.
LEAF: Final = hashlib.sha256(b"the caller's certificate").digest()
OTHER_LEAF: Final = hashlib.sha256(b"another certificate").digest()

_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}


def key() -> ec.EllipticCurvePrivateKey:
    """The issuer's key."""
    return keypair("issuer")


def caller(leaf: bytes = LEAF, name: str = PLANNER) -> Peer:
    """The proven caller, with that certificate."""
    return dataclasses.replace(proven(name), leaf_sha256=leaf)


def b64(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int, size: int | None = None) -> str:
    """A number as JWK has it (RFC 7518 6.3.1.1)."""
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def signature(private: Private, algorithm: str, message: bytes) -> bytes:
    """RFC 7518 3.3 to 3.5, RFC 8037 3.1."""
    if isinstance(private, ec.EllipticCurvePrivateKey):
        size = (private.key_size + 7) // 8
        der = private.sign(message, ec.ECDSA(_HASHES[algorithm[2:]]))
        return b"".join(part.to_bytes(size, "big") for part in decode_dss_signature(der))
    if isinstance(private, rsa.RSAPrivateKey):
        hashed = _HASHES[algorithm[2:]]
        pss = padding.PSS(padding.MGF1(hashed), hashed.digest_size)
        return private.sign(message, pss if algorithm.startswith("PS") else padding.PKCS1v15(), hashed)
    return private.sign(message)


def compact(header: bytes, payload: bytes, sign: Callable[[bytes], bytes] | None = None) -> bytes:
    """A compact JWS over exactly these bytes; signed by the issuer's key unless told otherwise."""
    message = f"{b64(header)}.{b64(payload)}".encode()
    made = signature(key(), "ES256", message) if sign is None else sign(message)
    return message + b"." + b64(made).encode()


def changed(good: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The same with other members, and without those that are `DROP`."""
    return {name: value for name, value in {**good, **changes}.items() if value is not DROP}


def header(**changes: Any) -> dict[str, Any]:
    """The header of a good token, with changes."""
    return changed({"alg": "ES256", "typ": "at+jwt", "kid": KEY_ID}, changes)


def confirmation(leaf: bytes = LEAF) -> dict[str, str]:
    """RFC 8705 3.1."""
    return {"x5t#S256": b64(leaf)}


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good token, with changes."""
    good = {
        "iss": ISSUER.issuer,
        "sub": "planner",
        "aud": AUDIENCE,
        "iat": int(NOW),
        "exp": int(NOW) + 600,
        "jti": "j1",
        "client_id": "planner",
        "scope": "tools.read tools.write",
        "cnf": confirmation(),
    }
    return changed(good, changes)


def dump(value: object) -> bytes:
    """JSON, as Python writes it: NaN and Infinity too."""
    return json.dumps(value).encode()


def token(
    head: Mapping[str, Any] | None = None,
    said: Mapping[str, Any] | None = None,
    private: Private | None = None,
    algorithm: str | None = None,
) -> bytes:
    """A good token of the issuer with changes to header and claims; signed as its header says, or as told."""
    full = header(**(head or {}))
    how, by = algorithm or full["alg"], key() if private is None else private
    return compact(dump(full), dump(claims(**(said or {}))), lambda message: signature(by, how, message))


def jwk(public: object, **changes: Any) -> dict[str, Any]:
    """A public key as RFC 7518 6 and RFC 8037 2 write it."""
    if isinstance(public, ec.EllipticCurvePublicKey):
        size, numbers = (public.key_size + 7) // 8, public.public_numbers()
        names = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521", "secp256k1": "secp256k1"}
        good = {
            "kty": "EC",
            "crv": names[public.curve.name],
            "x": number(numbers.x, size),
            "y": number(numbers.y, size),
        }
    elif isinstance(public, rsa.RSAPublicKey):
        good = {"kty": "RSA", "n": number(public.public_numbers().n), "e": number(public.public_numbers().e)}
    else:
        assert isinstance(public, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)
        crv = "Ed25519" if isinstance(public, ed25519.Ed25519PublicKey) else "Ed448"
        good = {"kty": "OKP", "crv": crv, "x": b64(public.public_bytes_raw())}
    return changed({**good, "kid": KEY_ID, "use": "sig"}, changes)


def key_set(*entries: object) -> KeySet:
    """A key set of these entries; of the issuer's key, where there are none."""
    return read_keys({"keys": list(entries) or [jwk(key().public_key(), alg="ES256")]})


@dataclass
class Holder:
    """The keys of an issuer, and how often somebody wanted to know; ``refresh``: newer ones can be waited for."""

    keys: KeySet | None = field(default_factory=key_set)
    refresh: bool = False
    asked: int = 0

    def current(self) -> KeySet | None:
        self.asked += 1
        return self.keys

    def may_refresh(self) -> bool:
        self.asked += 1
        return self.refresh


def self_signed(
    identity: Identity,
    head: Mapping[str, Any] | None = None,
    said: Mapping[str, Any] | None = None,
    private: Private | None = None,
) -> bytes:
    """A good token that a workload signed for itself, with changes; signed by another key if one is given."""
    own = identity.key if private is None else private
    algorithm = "ES384" if isinstance(own, ec.EllipticCurvePrivateKey) and own.key_size == 384 else "ES256"
    chain = [base64.b64encode(each).decode() for each in identity.der]
    full = changed({"alg": algorithm, "typ": "sidecar+jwt", "x5c": chain}, head or {})
    name = str(identity.id)
    good = {
        "iss": name,
        "sub": name,
        "aud": AUDIENCE,
        "iat": int(NOW),
        "exp": int(NOW) + 300,
        "jti": "0123456789abcdefghijkl",
        "cnf": confirmation(leaf_of(identity)),
    }
    return compact(dump(full), dump(changed(good, said or {})), lambda message: signature(own, algorithm, message))


def leaf_of(identity: Identity) -> bytes:
    """The SHA-256 of its certificate."""
    return hashlib.sha256(identity.der[0]).digest()


def holder_of(identity: Identity) -> Peer:
    """The proven caller that shows this identity."""
    return caller(leaf_of(identity), str(identity.id))


@dataclass
class Court:
    """One judge of tokens by `ISSUER` and of self-signed ones, with what it depends on."""

    holder: Holder = field(default_factory=Holder)
    issuer: Issuer = ISSUER
    bundles: Bundles = field(default_factory=lambda: Ca().bundles)
    memory: Memory = field(default_factory=Memory)
    leaves: RecentLeaves = field(default_factory=RecentLeaves)

    def __post_init__(self) -> None:
        self.judge = Judge({self.issuer.name: self.issuer}, {self.issuer.name: self.holder}, self.bundles, self.memory)

    def outcome(
        self,
        what: bytes | None,
        requirement: Requirement = REQUIREMENT,
        *,
        peer: Peer | None = None,
        now: float = NOW,
        waited: bool = False,
    ) -> Outcome:
        """Has a token judged that came as ``Authorization: Bearer``."""
        value = None if what is None else b"Bearer " + what
        presented = Presented(value, peer or caller(), waited)
        return self.judge.judge(requirement, presented, self.leaves, now)

    def code(self, what: bytes | None, requirement: Requirement = REQUIREMENT, **knobs: Any) -> TokenCode | str:
        """The code of the refusal, or ``admitted``, or ``keys wanted``."""
        outcome = self.outcome(what, requirement, **knobs)
        if isinstance(outcome, Admitted):
            assert outcome.requirement is requirement
            return "admitted"
        if isinstance(outcome, KeysWanted):
            assert outcome.issuer == self.issuer.name
            return "keys wanted"
        assert outcome.requirement is requirement
        return outcome.code


def verified(**changes: Any) -> Verified:
    """What a good token says, with changes to its claims, as it is known once its signature was found to hold."""
    outcome = Court().outcome(token(said=changes), dataclasses.replace(REQUIREMENT, bound=False, max_lifetime=1e9))
    assert isinstance(outcome, Admitted), outcome
    return outcome.token
