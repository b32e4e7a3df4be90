"""What operators see of tokens: which there are, how old they are, and what is wrong; never a token."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.app.tokens import TokenParts
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.lane import Lanes
    from sidecar.tokens.lease import Lease
    from sidecar.tokens.settings import SourceSettings


def show(hub: Hub, parts: TokenParts) -> None:
    """Tells the metrics whose ages they are to show."""
    metrics = hub.metrics
    for family in (metrics.token_age_seconds, metrics.token_expiry_timestamp_seconds, metrics.jwks_age_seconds):
        family.clear()
    for lanes in parts.lanes.values():
        lease = lanes.present.lease
        if lease is not None:
            labels = (lease.settings.name, lease.entry)
            metrics.token_age_seconds.labels(*labels).source = partial(_age, lanes)
            metrics.token_expiry_timestamp_seconds.labels(*labels).source = partial(_expiry, lanes)
    for keys in parts.keys.values():
        metrics.jwks_age_seconds.labels(keys.settings.name).source = keys.age


def _age(lanes: Lanes) -> float:
    lease = _in_use(lanes)
    return 0.0 if lease is None else lease.age()


def _expiry(lanes: Lanes) -> float:
    lease = _in_use(lanes)
    return 0.0 if lease is None else lease.expiry()


def _in_use(lanes: Lanes) -> Lease | None:
    """The lease that requests get their token of now. Fetches none: looking is no use of it."""
    lease, before = lanes.present.lease, lanes.before
    if before is not None and before.lease is not None and (lease is None or lease.binding() is None):
        return before.lease
    return lease


def status(sources: Iterable[SourceSettings], parts: TokenParts) -> list[dict[str, Any]]:
    """Says for operators what each source is and how its tokens are; never a token."""
    return [_source_status(settings, parts) for settings in sources]


def _source_status(settings: SourceSettings, parts: TokenParts) -> dict[str, Any]:
    from sidecar.tokens.settings import OAuth2Source, SelfSignedSource  # noqa: PLC0415 - where there are any

    shown: dict[str, Any] = {"name": settings.name, "kind": settings.kind, "audience": None, "scopes": []}
    if isinstance(settings, OAuth2Source):
        shown |= {"issuer": settings.issuer, "client_auth": str(settings.client_auth), "scopes": list(settings.scopes)}
        shown |= {"audience": settings.audience, "resource": settings.resource}
        if settings.client_secret is not None:
            shown["known_gap"] = "a static client secret"
    elif isinstance(settings, SelfSignedSource):
        shown["audience"] = settings.audience
    shown["helper"] = settings.keeping.helper
    if (helper := parts.helpers.get(settings.name)) is not None:
        given = helper.status()
        shown |= {"helper_refreshed": given["refreshed"], "helper_error": given["error"]}
    # One whose certificate was replaced is closed once the next one serves, and held until the next reload.
    leases = [each for each in parts.leases.values() if each.settings.name == settings.name and not each.closed]
    return shown | {"tokens": [lease.status() for lease in leases]}
