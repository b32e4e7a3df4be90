"""A token that a workload signed with its identity key: the chain that proves it comes along, and is verified like any peer's.

The format is ours: a JWT with ``typ: sidecar+jwt`` and its chain in ``x5c`` (RFC 7515 4.1.6); ``iss`` and ``sub`` are the
SPIFFE ID of the leaf, ``cnf`` is the leaf's SHA-256. It proves nothing that mutual TLS does not prove on the same
connection; it says so to whoever stands behind the proxy, for one audience.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.identity.peer import Role
from sidecar.identity.verify import MAX_CHAIN_CERTIFICATES, VerificationError, verify
from sidecar.tokens.claims import read_claims, read_header
from sidecar.tokens.codes import TokenCode, TokenError
from sidecar.tokens.keyset import signature_holds
from sidecar.tokens.settings import SELF_SIGNED_SECONDS

if TYPE_CHECKING:
    from sidecar.identity.bundle import Bundles
    from sidecar.tokens.claims import Header
    from sidecar.tokens.jws import Jws
    from sidecar.tokens.requirement import Verified

TYPE: Final = "sidecar+jwt"
#: How far two clocks may differ, in seconds.
LEEWAY: Final = 30.0
_ALGORITHMS: Final = frozenset({"ES256", "ES384"})


def read_self_signed(jws: Jws) -> tuple[Header, Verified]:
    """Holds header and claims to the format. Raises TokenError; the result means nothing before it was verified."""
    header, said = read_header(jws.header, algorithms=_ALGORITHMS, typ=TYPE), read_claims(jws.claims)
    if said.subject != said.issuer:
        raise TokenError(TokenCode.SUBJECT, "the token's sub is not its iss")
    if said.expires - said.issued > SELF_SIGNED_SECONDS:
        raise TokenError(TokenCode.LIVES_TOO_LONG, f"a self-signed token lives at most {SELF_SIGNED_SECONDS:g} s")
    return header, said


def verify_self_signed(token: bytes, jws: Jws, bundles: Bundles, now: float) -> Verified:
    """Verifies chain and signature at ``now`` (seconds since the epoch). Raises TokenError.

    Whether the leaf is that of the connection is for the caller to compare: ``bound_to`` is its SHA-256, always.
    """
    header, said = read_self_signed(jws)
    chain = _chain(jws.header.get("x5c"))
    try:
        # As a client: in that role the holder shows the same chain to us.
        peer = verify(chain, bundles, role=Role.CLIENT, now=now)
    except VerificationError as error:
        raise TokenError(TokenCode.CHAIN, f"the token's x5c is refused: {error.code}") from error
    if said.issuer != str(peer.id):
        raise TokenError(TokenCode.ISSUER, "the token's iss is not the SPIFFE ID in its x5c")
    if said.bound_to != peer.leaf_sha256:
        raise TokenError(TokenCode.NOT_BOUND, "the token's cnf is not the certificate in its x5c")
    key = x509.load_der_x509_certificate(chain[0]).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not signature_holds(token, key, header.algorithm):
        raise TokenError(TokenCode.SIGNATURE, "the token is not signed by the key in its x5c")
    return replace(said, chain_until=peer.not_after)


def _chain(value: Any) -> list[bytes]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_CHAIN_CERTIFICATES:
        raise TokenError(TokenCode.CHAIN, f"the token's x5c is no list of 1 to {MAX_CHAIN_CERTIFICATES} certificates")
    try:
        chain = [base64.b64decode(each, validate=True) for each in value]
    except (binascii.Error, ValueError, TypeError):
        raise TokenError(TokenCode.CHAIN, "the token's x5c holds what is no base64") from None
    # Python takes padding beyond what is needed, and bits that would have to be zero.
    if [base64.b64encode(each).decode("ascii") for each in chain] != value:
        raise TokenError(TokenCode.CHAIN, "the token's x5c holds base64 that is not canonical")
    return chain
