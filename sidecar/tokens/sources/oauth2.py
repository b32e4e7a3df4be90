"""``oauth2``: client credentials (RFC 6749 4.4) at an issuer that is found by its metadata."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, ClassVar

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.issuer.client import IssuerClient
from sidecar.tokens.issuer.metadata import Metadata, unexpected
from sidecar.tokens.jws import encode
from sidecar.tokens.sources import token_answer
from sidecar.tokens.sources.client_auth import ClientAuthentication
from sidecar.tokens.sources.refusal import refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.tokens.issuer.answer import Answer
    from sidecar.tokens.issuer.metadata import Endpoint
    from sidecar.tokens.settings import OAuth2Source
    from sidecar.tokens.sources.source import Means
    from sidecar.tokens.token import Token


class OAuth2:
    """A `TokenSource`. Where our certificate is not to be shown, its client does not even have it."""

    watched: ClassVar[bool] = False

    def __init__(self, settings: OAuth2Source, means: Means) -> None:
        """Raises KeyError where the secret was not read with the configuration."""
        self._settings = settings
        self._means = means
        self._auth = ClientAuthentication(settings, means)
        self._client = IssuerClient(
            settings.reach, means.files, means.workers, means.credentials if self._auth.mutual else None
        )
        self._metadata = Metadata(settings.issuer, settings.reach, self._client, means.clock.monotonic)
        self._leaf = encode(hashlib.sha256(means.svid.chain_der[0]).digest())

    async def fetch(self) -> Token:
        """Asks the issuer for a token. Raises SourceError."""
        endpoints = await self._metadata.endpoints()
        # Before the request: what the answer says about time counts from some moment after it.
        asked = self._means.clock.wall()
        answer = await self._post(endpoints.token, self._request())
        return token_answer.read(answer.json(), self._settings, self._leaf, asked)

    async def revoke(self, token: Token) -> None:
        """Revokes a token (RFC 7009 2.1) where the issuer has an endpoint for that. Raises SourceError."""
        endpoint = (await self._metadata.endpoints()).revocation
        if endpoint is not None:
            await self._post(endpoint, (("token", token.value), ("token_type_hint", "access_token")))

    async def changed(self) -> bool:
        """Returns False: an issuer does not tell us."""
        return False

    def _request(self) -> tuple[tuple[str, str], ...]:
        settings = self._settings
        asked = {
            "grant_type": "client_credentials",
            "scope": " ".join(settings.scopes),
            "resource": settings.resource,
            "audience": settings.audience,
        }
        return tuple((name, value) for name, value in asked.items() if value)

    async def _post(self, endpoint: Endpoint, form: Sequence[tuple[str, str]]) -> Answer:
        """Sends a form with our proof, once: a request that was refused is not repeated in another way."""
        auth, settings = self._auth, self._settings
        url = endpoint.mutual if auth.mutual else endpoint.plain
        if url is None:
            raise SourceError(
                SourceCode.METADATA,
                "the issuer's endpoint is plain http, where no certificate can be shown",
                hint="use https, or `bound: false` with a client_auth that needs no certificate",
            )
        proof = await auth.proof()
        answer = await self._client.post(url, (*form, *proof.form), mutual=auth.mutual, headers=proof.headers)
        if answer.status in {400, 401}:
            raise refused(answer, settings, auth.client_id, self._means.svid.id)
        if answer.status != 200:
            raise unexpected(answer.status, f"from an endpoint of {settings.issuer}")
        return answer
