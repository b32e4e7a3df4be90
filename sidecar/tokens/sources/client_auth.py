"""How we prove to an issuer who we are: what goes into the form, into the head, and whether our certificate is shown."""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_plus

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.jws import encode
from sidecar.tokens.jws_write import algorithm, signed
from sidecar.tokens.settings import ClientAuth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.tokens.settings import OAuth2Source
    from sidecar.tokens.sources.source import Means

#: How long an assertion is good for, in seconds: for one request.
ASSERTION_SECONDS: Final = 60
#: RFC 7523 2.2.
ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_BY_CERTIFICATE: Final = frozenset({ClientAuth.TLS, ClientAuth.SELF_SIGNED_TLS})


@dataclass(frozen=True, slots=True)
class Proof:
    """What is added to one request; it may be a secret, and never appears in ``repr``."""

    form: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class ClientAuthentication:
    """One method, the configured one: never another after a failure.

    ``client_id`` is our SPIFFE ID where the configuration has none. ``mutual``: our certificate is shown, because the
    method is that, or so that the token can be bound to it (RFC 8705 3).
    """

    def __init__(self, settings: OAuth2Source, means: Means) -> None:
        """Raises KeyError where the secret was not read with the configuration."""
        self.method = settings.client_auth
        self.client_id = str(means.svid.id) if settings.client_id is None else settings.client_id
        self.mutual = settings.bound or self.method in _BY_CERTIFICATE
        self._means = means
        self._audience = settings.assertion_audience or settings.issuer
        self._key_id = settings.key_id
        self._secret = "" if settings.client_secret is None else means.secrets[settings.client_secret]

    async def proof(self) -> Proof:
        """Makes the proof for one request. Raises SourceError (SIGNING, BUSY)."""
        if self.method is ClientAuth.SECRET_BASIC:
            # RFC 6749 2.3.1: each is form-encoded before they are joined, so a colon or a SPIFFE ID does no harm.
            pair = f"{_form_encoded(self.client_id)}:{_form_encoded(self._secret)}"
            return Proof(headers={"Authorization": f"Basic {base64.b64encode(pair.encode('ascii')).decode('ascii')}"})
        # RFC 8705 2: required with a certificate. RFC 7521 4.2: allowed with an assertion, and some issuers insist on it.
        form = (("client_id", self.client_id),)
        if self.method is ClientAuth.SECRET_POST:
            return Proof((*form, ("client_secret", self._secret)))
        if self.method is ClientAuth.PRIVATE_KEY_JWT:
            assertion = await self._assertion()
            return Proof((*form, ("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion)))
        return Proof(form)

    async def _assertion(self) -> str:
        """RFC 7523 3, with the certificate that the key belongs to (RFC 7515 4.1.8) so that the issuer finds its key."""
        means = self._means
        header = {
            "alg": algorithm(means.signer.public_key),
            "typ": "JWT",
            "x5t#S256": encode(hashlib.sha256(means.svid.chain_der[0]).digest()),
        }
        if self._key_id is not None:
            header["kid"] = self._key_id
        issued = int(means.clock.wall())
        claims = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": self._audience,
            "iat": issued,
            "exp": issued + ASSERTION_SECONDS,
            "jti": secrets.token_urlsafe(16),
        }
        return await signed(means, header, claims)


def _form_encoded(text: str) -> str:
    encoded: str | None
    try:
        encoded = quote_plus(text)
    except UnicodeEncodeError:  # bytes of the environment that were no UTF-8; it holds the secret, and stays here
        encoded = None
    if encoded is None:
        raise SourceError(SourceCode.BAD_TOKEN, "the client secret is no text (UTF-8)", hint="write it anew")
    return encoded
