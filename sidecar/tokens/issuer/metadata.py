"""Where an issuer's endpoints are: its metadata (RFC 8414), looked for in the two places that it may be at."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol
from urllib.parse import urlsplit, urlunsplit

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.issuer.url import endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sidecar.tokens.issuer.answer import Answer
    from sidecar.tokens.settings import Reach

#: How long metadata is used before it is asked for again, in seconds.
KEEP_SECONDS: Final = 600.0
_OAUTH: Final = "/.well-known/oauth-authorization-server"
_OPENID: Final = "/.well-known/openid-configuration"


class Getter(Protocol):
    """What is needed of `sidecar.tokens.issuer.client.IssuerClient`."""

    async def get(self, url: str, *, accept: str = "application/json") -> Answer:
        """Gets a URL. Raises SourceError."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint's URLs. ``mutual``: where mutual TLS is spoken (RFC 8705 5), None where it cannot be."""

    plain: str
    mutual: str | None


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What we use of an issuer. ``revocation`` (RFC 7009) is None where it has none."""

    token: Endpoint
    revocation: Endpoint | None


class Metadata:
    """The metadata of one issuer, kept for a while; a failure is not kept."""

    def __init__(self, issuer: str, reach: Reach, client: Getter, monotonic: Callable[[], float]) -> None:
        self._issuer = issuer
        self._plaintext = reach.unsafe_plaintext
        self._client = client
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._known: tuple[float, Endpoints] | None = None
        self._attempts = 0
        self._failure: SourceError | None = None

    async def endpoints(self) -> Endpoints:
        """Returns the endpoints, asking at most once for all who wait. Raises SourceError."""
        known = self._fresh()
        if known is not None:
            return known
        attempts = self._attempts
        async with self._lock:
            known = self._fresh()
            if known is not None:
                return known
            failure = self._failure
            if failure is not None and self._attempts != attempts:
                # The attempt that this one waited for. A new error each time: one that is raised again collects tracebacks.
                raise SourceError(failure.code, str(failure), hint=failure.hint)
            return await self._ask()

    def _fresh(self) -> Endpoints | None:
        if self._known is None or self._monotonic() - self._known[0] >= KEEP_SECONDS:
            return None
        return self._known[1]

    async def _ask(self) -> Endpoints:
        self._failure = None
        try:
            document = await self._document()
            found = read(document, self._issuer, plaintext=self._plaintext)
        except SourceError as error:
            self._failure = SourceError(error.code, str(error), hint=error.hint)
            self._attempts += 1
            raise
        self._known = (self._monotonic(), found)
        return found

    async def _document(self) -> dict[str, Any]:
        first, second = places(self._issuer)
        answer = await self._client.get(first)
        if answer.status == 404:
            answer = await self._client.get(second)
        if answer.status != 200:
            raise unexpected(answer.status, f"where the metadata of {self._issuer} should be")
        return answer.json()


def places(issuer: str) -> tuple[str, str]:
    """Returns the URLs at which an issuer's metadata is looked for.

    Between host and path (RFC 8414 3.1), and behind the path as OpenID Connect has it (RFC 8414 5). A final slash is left
    out of both. Raises SourceError (METADATA) for an issuer with a query or fragment (RFC 8414 2).
    """
    parts = urlsplit(issuer)
    if "?" in issuer or "#" in issuer:
        _refuse("an issuer has neither a query nor a fragment (RFC 8414 2)", "correct `issuer`")
    path = parts.path.removesuffix("/")
    return (
        urlunsplit((parts.scheme, parts.netloc, _OAUTH + path, "", "")),
        urlunsplit((parts.scheme, parts.netloc, path + _OPENID, "", "")),
    )


def read(document: Mapping[str, Any], issuer: str, *, plaintext: bool) -> Endpoints:
    """Reads metadata. Raises SourceError (METADATA) where it is another issuer's, or an endpoint may not be used."""
    _check_issuer(document.get("issuer"), issuer)
    aliases = document.get("mtls_endpoint_aliases", {})
    if not isinstance(aliases, dict):
        _refuse("`mtls_endpoint_aliases` of the metadata is no object (RFC 8705 5)")
    token = _endpoint("token_endpoint", document, aliases, plaintext=plaintext)
    if token is None:
        _refuse("the metadata has no `token_endpoint`", "is it an issuer that gives tokens to clients?")
    return Endpoints(token, _endpoint("revocation_endpoint", document, aliases, plaintext=plaintext))


def unexpected(status: int, where: str) -> SourceError:
    """Returns the error (STATUS) for an answer that is none; ``where`` is in words of ours."""
    hint = "look at the issuer's log"
    if 300 <= status < 400:
        hint = "redirects are not followed: name the issuer by the URL that it has itself"
    elif status == 404:
        hint = "check `issuer`: it is the URL that the issuer's own metadata names"
    elif status in {429, 503}:
        hint = "it is overloaded, or limits how often it is asked"
    return SourceError(SourceCode.STATUS, f"status {status} {where}", hint=hint)


def _check_issuer(named: object, issuer: str) -> None:
    """RFC 8414 3.3: the same, byte for byte; or it is metadata that somebody put in another's place."""
    if named == issuer:
        return
    if isinstance(named, str) and named.removesuffix("/") == issuer.removesuffix("/"):
        _refuse(
            f"the metadata names its issuer {'with' if named.endswith('/') else 'without'} a final slash, unlike {issuer}",
            "write `issuer` exactly as the metadata does",
        )
    _refuse(
        f"the metadata is not about {issuer}: it names another issuer, or none",
        "write `issuer` exactly as the metadata does, if that is the one you mean",
    )


def _endpoint(
    name: str, document: Mapping[str, Any], aliases: Mapping[str, Any], *, plaintext: bool
) -> Endpoint | None:
    plain = _url(document.get(name), name, plaintext=plaintext)
    # Mutual TLS without TLS is none, whatever the configuration allows.
    alias = _url(aliases.get(name), f"mtls_endpoint_aliases.{name}", plaintext=False)
    if plain is None:
        return None
    secure = plain if endpoint(plain, plaintext=plaintext).secure else None
    return Endpoint(plain, alias or secure)


def _url(url: object, name: str, *, plaintext: bool) -> str | None:
    if url is None:
        return None
    if not isinstance(url, str):
        _refuse(f"`{name}` of the metadata is no URL")
    try:
        endpoint(url, plaintext=plaintext)
    except SourceError as error:
        # Its message is about what a configuration says, and quotes nothing.
        _refuse(f"`{name}` of the metadata may not be used: {error}", "endpoints have to be https (RFC 8414 2)")
    return url


def _refuse(what: str, hint: str = "have the issuer's metadata corrected") -> NoReturn:
    raise SourceError(SourceCode.METADATA, what, hint=hint)
