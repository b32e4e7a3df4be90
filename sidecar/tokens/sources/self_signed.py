"""``self-signed``: a JWT by our own identity key, for services that know our trust domain. Nobody else is asked."""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import TYPE_CHECKING, ClassVar, Final

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.jws import encode
from sidecar.tokens.jws_write import algorithm, signed
from sidecar.tokens.settings import SELF_SIGNED_SECONDS
from sidecar.tokens.token import MAX_BYTES, Token

if TYPE_CHECKING:
    from sidecar.tokens.settings import SelfSignedSource
    from sidecar.tokens.sources.source import Means

#: What tells these tokens from all others (RFC 8725 3.11); the only type that is accepted as self-signed.
TYPE: Final = "sidecar+jwt"


class SelfSigned:
    """A `TokenSource`. Its tokens are bound to our certificate, and end with it at the latest."""

    watched: ClassVar[bool] = False

    def __init__(self, settings: SelfSignedSource, means: Means) -> None:
        self._means = means
        self._audience = settings.audience
        self._lifetime = min(settings.lifetime, settings.keeping.max_lifetime, SELF_SIGNED_SECONDS)
        chain = means.svid.chain_der
        self._header = {
            "alg": algorithm(means.signer.public_key),
            "typ": TYPE,
            # RFC 7515 4.1.6: padded base64, not base64url.
            "x5c": [base64.b64encode(der).decode("ascii") for der in chain],
        }
        self._cnf = {"x5t#S256": encode(hashlib.sha256(chain[0]).digest())}

    async def fetch(self) -> Token:
        """Signs a token. Raises SourceError: SIGNING, BUSY, and EXPIRED where our certificate is about to end."""
        now = self._means.clock.wall()
        issued = int(now)
        expires = min(issued + int(self._lifetime), int(self._means.svid.not_after))
        if expires <= now:
            raise SourceError(
                SourceCode.EXPIRED,
                "no token can be signed that would be valid: our certificate ends now, or the lifetime is under a second",
                hint="renew the certificate, and look at the clock",
            )
        name = str(self._means.svid.id)
        claims = {
            "iss": name,
            "sub": name,
            "aud": self._audience,
            "iat": issued,
            "exp": expires,
            "jti": secrets.token_urlsafe(16),
            "cnf": self._cnf,
        }
        value = await signed(self._means, self._header, claims)
        if len(value) > MAX_BYTES:
            raise SourceError(
                SourceCode.BAD_TOKEN,
                f"with our chain of certificates the token has {len(value)} bytes, more than {MAX_BYTES}",
                hint="have the certificate issued under a shorter chain, or use another kind of source",
            )
        return Token(value, expires=float(expires), lifetime=expires - now, bound=True)

    async def revoke(self, token: Token) -> None:
        """Does nothing: nobody keeps a list of these, they end soon by themselves."""

    async def changed(self) -> bool:
        """Returns False: a token that was signed stays what it is."""
        return False
