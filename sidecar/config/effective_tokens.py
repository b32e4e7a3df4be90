"""What `sidecar.config.effective` shows of tokens: the file's own keys. Of a secret, only where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.config.kinds import spell_duration
from sidecar.config.token_keys import Cache
from sidecar.tokens.settings import ExecSource, FileSource, OAuth2Source

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.config.values import Outbound
    from sidecar.tokens.requirement import Requirement
    from sidecar.tokens.settings import Issuer, Keeping, Reach, SecretRef, SelfSignedSource, SourceSettings


def source(settings: SourceSettings) -> dict[str, Any]:
    """Returns a source with all its keys."""
    return {"name": settings.name, "kind": settings.kind, **_own(settings), **_keeping(settings.keeping)}


def _own(settings: SourceSettings) -> dict[str, Any]:
    if isinstance(settings, OAuth2Source):
        return _oauth2(settings)
    if isinstance(settings, FileSource):
        return {"path": str(settings.path), **_life(settings.keeping)}
    if isinstance(settings, ExecSource):
        timeout = spell_duration(settings.timeout)
        return {"command": list(settings.command), "timeout": timeout, **_life(settings.keeping)}
    return _self_signed(settings)


def _self_signed(settings: SelfSignedSource) -> dict[str, Any]:
    return {"audience": settings.audience, "lifetime": spell_duration(settings.lifetime)}


def _oauth2(settings: OAuth2Source) -> dict[str, Any]:
    return {
        "issuer": settings.issuer,
        "client_auth": settings.client_auth.value,
        "client_id": settings.client_id,
        "client_secret": _secret(settings.client_secret),
        "scopes": list(settings.scopes),
        "resource": settings.resource,
        "audience": settings.audience,
        "assertion_audience": settings.assertion_audience,
        "key_id": settings.key_id,
        "bound": settings.bound,
        **_reach(settings.reach),
        **_life(settings.keeping),
    }


def _secret(ref: SecretRef | None) -> dict[str, str] | None:
    if ref is None:
        return None
    return {"env": ref.env} if ref.env is not None else {"file": str(ref.file)}


def _reach(reach: Reach) -> dict[str, Any]:
    return {
        "ca": _path(reach.ca),
        "timeout": spell_duration(reach.timeout),
        "unsafe_plaintext_issuer": reach.unsafe_plaintext,
    }


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _life(keeping: Keeping) -> dict[str, Any]:
    return {"max_lifetime": spell_duration(keeping.max_lifetime)}


def _keeping(keeping: Keeping) -> dict[str, Any]:
    return {"cache": (Cache.MEMORY if keeping.cache else Cache.NONE).value, "helper": keeping.helper}


def issuer(found: Issuer) -> dict[str, Any]:
    """Returns an issuer with all its keys."""
    return {
        "name": found.name,
        **deciding(found),
        "jwks_refresh": spell_duration(found.jwks_refresh),
        "jwks_interval": spell_duration(found.jwks_interval),
        "jwks_max_age": spell_duration(found.jwks_max_age),
        **_reach(found.reach),
    }


def deciding(found: Issuer) -> dict[str, Any]:
    """Returns of an issuer what decides about requests."""
    return {
        "issuer": found.issuer,
        "jwks": found.jwks,
        "algorithms": sorted(found.algorithms),
        "typ": found.typ or "none",
        "leeway": spell_duration(found.leeway),
    }


def requirement(asked: Requirement) -> dict[str, Any]:
    """Returns what a rule asks of a token."""
    claims: dict[str, Any] = {}
    for path, value in asked.claims:
        place = claims
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = value
    return {
        "issuer": asked.issuer,
        "audience": sorted(asked.audience),
        "scopes": sorted(asked.scopes),
        "claims": claims,
        "max_lifetime": spell_duration(asked.max_lifetime),
        "bound": asked.bound,
        "pass_token": asked.pass_token,
        "headers": {name.decode("ascii"): claim for name, claim in asked.headers},
    }


def token_header(entry: Outbound) -> str:
    """Returns the field for the token, and its scheme, as the file has them."""
    name, scheme = entry.token_header.decode("ascii"), entry.token_scheme.decode("ascii")
    return f"{name}: {scheme}" if scheme else name
