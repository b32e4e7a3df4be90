"""Makes the sources of a configuration's tokens, and the leases that keep them: for configurations with `tokens` alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sidecar.app.tokens import content
from sidecar.tls.contexts import Credentials
from sidecar.tokens.credential import Field
from sidecar.tokens.lease import Lease, Tools
from sidecar.tokens.settings import OAuth2Source, SelfSignedSource
from sidecar.tokens.sources import make
from sidecar.tokens.sources.source import Means

if TYPE_CHECKING:
    from collections.abc import Hashable

    from sidecar.app.build import Generation
    from sidecar.config.values import Outbound
    from sidecar.proxy.hub import Hub
    from sidecar.threads import Workers
    from sidecar.tokens.settings import SourceSettings
    from sidecar.tokens.sources.source import TokenSource


def tools(hub: Hub) -> Tools:
    """What every lease and every issuer's keys need."""
    return Tools(hub.clock, hub.messages, hub.metrics)


def issuer_workers(hub: Hub, generation: Generation, purpose: str, issuer: str) -> Workers:
    """Returns the threads that talk to an issuer, and notes that this configuration has it."""
    generation.tokens.issuers.add((purpose, issuer))
    return hub.issuer_workers(purpose, issuer)


def lease(hub: Hub, generation: Generation, entry: Outbound, kept: Generation) -> Lease:
    """Makes the lease of an entry with a token, or keeps the one that it had, where all that its token depends on is the same."""
    settings = next(source for source in generation.loaded.config.tokens if source.name == entry.token)
    where = Field(entry.token_header, entry.token_scheme)
    source = _source(hub, generation, settings)
    key = ("lease", entry.name, where, settings, *_depends_on(generation, settings))
    found = kept.tokens.leases.get(key)
    if found is None or found.closed:
        found = Lease(settings, source, where, tools(hub), entry=entry.name, hardware=_hardware(generation))
    generation.tokens.leases[key] = found
    if isinstance(settings, OAuth2Source | SelfSignedSource):
        # The others know nothing of us, and what they have seen of their file or command would be lost.
        generation.tokens.sources[found] = source
    return found


def helpers(hub: Hub, generation: Generation) -> dict[str, Lease]:
    """Makes what gives tokens to ``sidecar token``: a fresh one each time."""
    found: dict[str, Lease] = {}
    for settings in generation.loaded.config.tokens:
        if settings.keeping.helper:
            fresh = replace(settings, keeping=replace(settings.keeping, cache=False))
            source, hardware = _source(hub, generation, settings), _hardware(generation)
            found[settings.name] = Lease(fresh, source, Field(), tools(hub), entry="", hardware=hardware)
    return found


def _source(hub: Hub, generation: Generation, settings: SourceSettings) -> TokenSource:
    loaded, own = generation.loaded, generation.own
    credentials = Credentials(loaded.material.chain_pem, generation.key.private_key)
    signer = generation.key.signer
    files, secrets = loaded.token_files, loaded.token_secrets
    issuer = settings.issuer if isinstance(settings, OAuth2Source) else ""
    workers = (issuer_workers(hub, generation, "tokens", issuer), hub.token_local)
    return make.make(settings, Means(own.svid, credentials, signer, hub.clock, *workers, files, secrets))


def _depends_on(generation: Generation, settings: SourceSettings) -> tuple[Hashable, ...]:
    """What a token of a source depends on beside its settings: our identity, files, and perhaps our certificate."""
    loaded, svid = generation.loaded, generation.own.svid
    found: list[Hashable] = [str(svid.id)]
    if isinstance(settings, OAuth2Source):
        ca, secret = settings.reach.ca, settings.client_secret
        found.append(content(loaded.token_files.get(ca) if ca else None))
        found.append(content(loaded.token_secrets[secret].encode() if secret else None))
    if isinstance(settings, SelfSignedSource) or (isinstance(settings, OAuth2Source) and settings.bound):
        found.append(content(svid.chain_der[0]))
    return tuple(found)


def _hardware(generation: Generation) -> bool:
    return generation.own.protection in {"tpm", "hsm"}
