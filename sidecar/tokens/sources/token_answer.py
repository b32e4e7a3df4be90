"""What a token endpoint gives (RFC 6749 5.1): read strictly, and only taken where it is what was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.sources import peek
from sidecar.tokens.sources.life import token_of
from sidecar.tokens.token import Token, checked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.tokens.settings import OAuth2Source


def read(answer: Mapping[str, Any], settings: OAuth2Source, leaf: str, asked: float) -> Token:
    """Returns the token. ``leaf``: the SHA-256 of our certificate, base64url; ``asked``: when we did, by the wall clock.

    Raises SourceError: BAD_ANSWER, BAD_TOKEN, REFUSED where scopes are missing, NOT_BOUND, EXPIRED.
    """
    _check_type(answer.get("token_type"))
    value = answer.get("access_token")
    if not isinstance(value, str):
        raise _bad("has no `access_token`")
    checked(value)
    _check_scopes(answer.get("scope"), settings.scopes)
    said = peek.claims(value)
    bound = _bound(said, settings, leaf)
    return token_of(
        value,
        now=asked,
        until=(peek.expiry(said),),
        within=_expires_in(answer.get("expires_in")),
        most=settings.keeping.max_lifetime,
        bound=bound,
        hint="compare our clock with the issuer's",
    )


def _check_type(named: object) -> None:
    """RFC 6749 7.1: a token of a type that is not understood must not be used."""
    if isinstance(named, str) and named.lower() == "bearer":
        return
    if isinstance(named, str) and named.lower() == "dpop":
        raise SourceError(
            SourceCode.BAD_ANSWER,
            "the issuer gave a DPoP token (RFC 9449), which is not served",
            hint="register the client without dpop_bound_access_tokens",
        )
    raise _bad("has another `token_type` than Bearer, or none")


def _expires_in(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise _bad("has an `expires_in` that is no positive number of seconds")
    return value


def _check_scopes(granted: object, wanted: tuple[str, ...]) -> None:
    """RFC 6749 5.1: no ``scope`` says that all were granted."""
    if granted is None:
        return
    if not isinstance(granted, str):
        raise _bad("has a `scope` that is no text")
    missing = [scope for scope in wanted if scope not in granted.split(" ")]
    if missing:
        raise SourceError(
            SourceCode.REFUSED,
            f"{len(missing)} of {len(wanted)} scopes were not granted: {', '.join(missing)}",
            hint="register them for this client, or ask for fewer",
        )


def _bound(said: Mapping[str, Any] | None, settings: OAuth2Source, leaf: str) -> bool:
    """Says whether a token names our certificate. One that names another helps nobody but its owner."""
    named = peek.confirmation(said)
    if named is not None and named != leaf:
        raise SourceError(
            SourceCode.NOT_BOUND,
            "the issuer bound the token to another certificate than ours",
            hint="does something between us and the issuer end TLS, and show a certificate of its own?",
        )
    if settings.bound and said is not None and named is None:
        raise SourceError(
            SourceCode.NOT_BOUND,
            "the issuer did not bind the token to our certificate (RFC 8705 3)",
            hint="register the client with tls_client_certificate_bound_access_tokens, or set `bound: false`",
        )
    return named is not None


def _bad(what: str) -> SourceError:
    return SourceError(
        SourceCode.BAD_ANSWER, f"the issuer's answer {what}", hint="it is no answer by RFC 6749 5.1: look at the issuer"
    )
