"""Writes what we sign: a compact JWS (RFC 7515 7.1) by our own key, which may be in a device."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from sidecar.keys.errors import SignError
from sidecar.keys.signer import Hash, hash_for
from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.jws import encode
from sidecar.tokens.work import work

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric import ec

    from sidecar.tokens.sources.source import Means

#: More than any signer takes by its own limit, in seconds: for a device whose driver does not come back.
SIGN_SECONDS: Final = 10.0
#: RFC 7518 3.4: the algorithm of a hash, and the length of R and of S in octets.
_ALGORITHMS: Final = {Hash.SHA256: ("ES256", 32), Hash.SHA384: ("ES384", 48)}


def algorithm(public_key: ec.EllipticCurvePublicKey) -> str:
    """Returns the ``alg`` of a key of ours: ES256 or ES384, by its curve (RFC 7518 3.4)."""
    return _ALGORITHMS[hash_for(public_key)][0]


def signing_input(header: Mapping[str, Any], claims: Mapping[str, Any]) -> bytes:
    """Returns the bytes that are signed (RFC 7515 5.1): both as compact ASCII JSON, names in the order given."""
    return f"{encode(_json(header))}.{encode(_json(claims))}".encode("ascii")


def raw_signature(der: bytes, hash_: Hash) -> bytes:
    """Turns an ECDSA-Sig-Value (RFC 3279 2.2.3) into R || S, each of the curve's length. Raises ValueError."""
    size = _ALGORITHMS[hash_][1]
    try:
        return b"".join(number.to_bytes(size, "big") for number in decode_dss_signature(der))
    except OverflowError:
        raise ValueError("the signature is of another curve") from None


async def signed(means: Means, header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
    """Returns the compact JWS of a header, which names `algorithm`, and claims.

    Raises SourceError: SIGNING where our key does not sign, BUSY where too much waits for it.
    """
    message = signing_input(header, claims)
    hash_ = hash_for(means.signer.public_key)
    try:
        der = await work(means.local, partial(means.signer.sign, message, hash_), SIGN_SECONDS)
        signature = raw_signature(der, hash_)
    except SignError as error:
        raise SourceError(
            SourceCode.SIGNING, f"our key did not sign ({error.code}): {error}", hint=error.hint
        ) from error
    except TimeoutError:
        raise SourceError(
            SourceCode.SIGNING,
            f"our key did not sign within {SIGN_SECONDS:g} s",
            hint="is the device with it hung? `sidecar key show` tries it",
        ) from None
    except ValueError:
        raise SourceError(SourceCode.SIGNING, "our key returned what is no signature") from None
    return f"{message.decode('ascii')}.{encode(signature)}"


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")
