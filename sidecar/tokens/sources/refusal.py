"""What an issuer says when it refuses (RFC 6749 5.2), and what to do about it.

Only the registered words are repeated: everything else in such an answer is text that the issuer chose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.settings import ClientAuth

if TYPE_CHECKING:
    from sidecar.identity.spiffe import SpiffeId
    from sidecar.tokens.issuer.answer import Answer
    from sidecar.tokens.settings import OAuth2Source

#: The word -> what to do. ``invalid_client`` depends on the method: see below.
_HINTS: Final = {
    "invalid_request": "the issuer does not take such a request: does it know `resource` and `audience`?",
    "invalid_grant": "the issuer does not take the assertion as it is: check `assertion_audience`, and both clocks",
    "unauthorized_client": "allow the grant client_credentials to this client",
    "unsupported_grant_type": "the issuer has to be told to serve the grant client_credentials",
    "invalid_scope": "register the configured `scopes` for this client, or ask for fewer",
    # RFC 8707 2.
    "invalid_target": "register the configured `resource` or `audience` with the issuer, for this client",
    # RFC 7009 2.2.1.
    "unsupported_token_type": "the issuer does not revoke access tokens; they end by themselves",
}
_INVALID_CLIENT: Final = "invalid_client"


def refused(answer: Answer, settings: OAuth2Source, client_id: str, spiffe_id: SpiffeId) -> SourceError:
    """Returns the error (REFUSED) for an answer of status 400 or 401."""
    word = _word(answer)
    if word is None:
        return SourceError(
            SourceCode.REFUSED,
            f"{settings.issuer} refused with status {answer.status}, and no error code of RFC 6749 5.2",
            hint="the issuer's log says more",
        )
    hint = _registration(settings, client_id, spiffe_id) if word == _INVALID_CLIENT else _HINTS[word]
    return SourceError(SourceCode.REFUSED, f"{settings.issuer} refused: {word}", hint=hint)


def _word(answer: Answer) -> str | None:
    try:
        word = answer.json().get("error")
    except SourceError:
        return None
    return word if isinstance(word, str) and (word in _HINTS or word == _INVALID_CLIENT) else None


def _registration(settings: OAuth2Source, client_id: str, spiffe_id: SpiffeId) -> str:
    """What the issuer has to know about the client so that it can tell that it is us."""
    method = settings.client_auth
    needed = {
        ClientAuth.TLS: f"tls_client_auth_san_uri {spiffe_id} and an authority that our certificate is from",
        ClientAuth.SELF_SIGNED_TLS: "our certificate as x5c in its jwks (after each renewal)",
        ClientAuth.PRIVATE_KEY_JWT: (
            "our public key in its jwks (after each change), and takes our assertions for "
            f"{settings.assertion_audience or settings.issuer}"
        ),
        ClientAuth.SECRET_BASIC: f"the secret that is in {settings.client_secret}",
        ClientAuth.SECRET_POST: f"the secret that is in {settings.client_secret}",
    }[method]
    return f"register client_id {client_id} with token_endpoint_auth_method {method.value}: it needs {needed}"
