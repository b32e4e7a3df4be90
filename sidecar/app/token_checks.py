"""Makes what judges the tokens of callers: for configurations with a rule that asks for one alone. Loads PyJWT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.app.token_sources import issuer_workers, tools
from sidecar.app.tokens import content
from sidecar.proxy.inbound_tokens import TokenCheck
from sidecar.tokens.issuer.client import IssuerClient
from sidecar.tokens.issuer.jwks import IssuerKeys
from sidecar.tokens.judge import Judge
from sidecar.tokens.leaves import RecentLeaves

if TYPE_CHECKING:
    from sidecar.app.build import Generation
    from sidecar.config.values import Inbound
    from sidecar.proxy.hub import Hub


def token_check(hub: Hub, generation: Generation, entry: Inbound, kept: Generation) -> TokenCheck:
    """Makes what judges the tokens of an entry's callers."""
    parts = generation.tokens
    if parts.judge is None:
        parts.judge = _judge(hub, generation, kept)
    leaves = parts.leaves[entry.name] = kept.tokens.leaves.get(entry.name) or RecentLeaves()
    by_name = {keys.settings.name: keys for keys in parts.keys.values()}
    return TokenCheck(parts.judge, by_name, leaves, entry.allow)


def _judge(hub: Hub, generation: Generation, kept: Generation) -> Judge:
    issuers = generation.loaded.config.issuers
    keys = [_keys(hub, generation, number, kept) for number in range(len(issuers))]
    before = kept.tokens.judge
    # What was remembered was checked by the old rules of an issuer, its algorithms and types.
    same = before is not None and issuers == kept.loaded.config.issuers
    return Judge(
        {issuer.name: issuer for issuer in issuers},
        {each.settings.name: each for each in keys},
        generation.loaded.material.bundles,
        before.memory if before is not None and same else None,
    )


def _keys(hub: Hub, generation: Generation, number: int, kept: Generation) -> IssuerKeys:
    issuer, files = generation.loaded.config.issuers[number], generation.loaded.token_files
    key = (issuer, content(files.get(issuer.reach.ca) if issuer.reach.ca else None))
    keys = kept.tokens.keys.get(key)
    workers = issuer_workers(hub, generation, "keys", issuer.issuer)
    if keys is None:
        keys = IssuerKeys(issuer, IssuerClient(issuer.reach, files, workers), tools(hub))
    generation.tokens.keys[key] = keys
    return keys
