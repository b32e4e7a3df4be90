"""What one configuration has of tokens, and what a reload keeps of it and lets go.

What only configurations with tokens need is loaded with these alone: `token_sources`, `token_checks`.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar.identity.peer import Role
from sidecar.identity.refusal import VerificationError
from sidecar.identity.verify import verify
from sidecar.proxy.lane import Lane, Lanes
from sidecar.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Hashable

    from sidecar.app.build import Generation
    from sidecar.app.own_key import OwnKey
    from sidecar.config.values import Inbound, Outbound
    from sidecar.identity.svid import Svid
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.inbound_tokens import TokenCheck
    from sidecar.proxy.pool import Pool
    from sidecar.tokens.issuer.jwks import IssuerKeys
    from sidecar.tokens.judge import Judge
    from sidecar.tokens.lease import Lease
    from sidecar.tokens.leaves import RecentLeaves
    from sidecar.tokens.sources.source import TokenSource

#: How long the end of the process waits for tokens to be revoked, in seconds.
REVOKE_SECONDS: Final = 3.0


class Origin(NamedTuple):
    """What a lane was made from. ``route`` is all that its connections depend on, our own certificate and key aside."""

    route: Hashable
    key: OwnKey
    svid: Svid


class TokenParts:
    """What one configuration has of these."""

    def __init__(self) -> None:
        #: By all that a token of theirs depends on.
        self.leases: dict[Hashable, Lease] = {}
        #: What each lease asks from now on: made with the certificate of this configuration.
        self.sources: dict[Lease, TokenSource] = {}
        #: What gives tokens to ``sidecar token``, by the names of their sources.
        self.helpers: dict[str, Lease] = {}
        #: By the names of outbound entries, and what each lane was made from.
        self.lanes: dict[str, Lanes] = {}
        self.origins: dict[Lane, Origin] = {}
        #: By all that an issuer's keys depend on.
        self.keys: dict[Hashable, IssuerKeys] = {}
        #: The issuers that are talked to, as `sidecar.proxy.hub.Hub.issuer_workers` calls them.
        self.issuers: set[tuple[str, str]] = set()
        #: By the names of inbound entries.
        self.leaves: dict[str, RecentLeaves] = {}
        self.judge: Judge | None = None


def content(data: bytes | None) -> bytes:
    """Returns a digest that tells two contents apart, also none from an empty one."""
    return b"" if data is None else hashlib.sha256(data).digest()


def check_of(hub: Hub, generation: Generation, entry: Inbound, kept: Generation) -> TokenCheck | None:
    """Makes what judges the tokens of an entry's callers; None where no rule asks for any."""
    if all(rule.token is None for rule in entry.allow):
        return None
    from sidecar.app.token_checks import token_check  # noqa: PLC0415 - loads PyJWT

    return token_check(hub, generation, entry, kept)


def lease_of(hub: Hub, generation: Generation, entry: Outbound, kept: Generation) -> Lease | None:
    """Makes, or keeps, what has the tokens of an entry; None where it sends none along."""
    if entry.token is None:
        return None
    from sidecar.app.token_sources import lease  # noqa: PLC0415 - see above

    return lease(hub, generation, entry, kept)


def helpers_of(hub: Hub, generation: Generation) -> dict[str, Lease]:
    """Makes what gives tokens to ``sidecar token``, by the names of their sources."""
    if not any(source.keeping.helper for source in generation.loaded.config.tokens):
        return {}
    from sidecar.app.token_sources import helpers  # noqa: PLC0415 - see above

    return helpers(hub, generation)


def make_lanes(
    hub: Hub, generation: Generation, entry: Outbound, pool: Pool, route: Hashable, kept: Generation
) -> Lanes:
    """Makes the lanes of an entry; ``route`` as in `Origin`.

    Where nothing but our certificate was renewed, requests go on over the lane before until the new one has its token.
    """
    parts = generation.tokens
    lease = lease_of(hub, generation, entry, kept)
    old = kept.tokens.lanes.get(entry.name)
    if old is not None and old.present.pool is pool and old.present.lease is lease:
        _hold(generation, old.present, kept)
        if old.before is not None and not _may_go_on(old.before, old.present, generation, kept, hub.clock.wall()):
            old = Lanes(old.present, hub.clock)  # its authority, say, was removed by now
        if old.before is not None:
            _hold(generation, old.before, kept)
        parts.lanes[entry.name] = old
        return old
    svid = generation.own.svid
    present = Lane(pool, lease, svid.not_after)
    parts.origins[present] = Origin(route, generation.key, svid)
    before = None if old is None else old.serving()
    if before is not None and _may_go_on(before, present, generation, kept, hub.clock.wall()):
        _hold(generation, before, kept)
    else:
        before = None
    lanes = parts.lanes[entry.name] = Lanes(present, hub.clock, before)
    return lanes


def _hold(generation: Generation, lane: Lane, kept: Generation) -> None:
    """Takes a lane over into this configuration, with its connections and its lease."""
    parts = generation.tokens
    generation.pools.update({key: pool for key, pool in kept.pools.items() if pool is lane.pool})
    parts.origins[lane] = kept.tokens.origins[lane]
    parts.leases.update({key: lease for key, lease in kept.tokens.leases.items() if lease is lane.lease})


def _may_go_on(before: Lane, present: Lane, generation: Generation, kept: Generation, now: float) -> bool:
    """Says whether the lane before serves on for a while: only if nothing that it is made of was taken away."""
    lease, then = before.lease, kept.tokens.origins[before]
    if lease is None or present.lease is None or lease is present.lease or not before.held:
        return False
    if before.pool.retired or before.pool is present.pool:
        return False
    new = generation.tokens.origins[present]
    same_source = (lease.settings, lease.field) == (present.lease.settings, present.lease.field)
    if not (same_source and _same_key(then.key, new.key) and then.route == new.route and then.svid.id == new.svid.id):
        return False
    try:
        # Its authority may have been removed.
        verify(then.svid.chain_der, generation.loaded.material.bundles, role=Role.CLIENT, now=now)
    except VerificationError:
        return False
    return True


def _same_key(one: OwnKey, other: OwnKey) -> bool:
    """Whether the key was kept, or replaced in its file along with the certificate; one in a device was taken out."""
    in_files = one.material.software is not None and other.material.software is not None
    return one is other or (in_files and one.material.spec == other.material.spec)


# --- what changes when a configuration comes into force, and when the process ends


def took_over(new: TokenParts, old: TokenParts | None) -> None:
    """Puts the parts of a configuration into force: leases ask in the name of the new certificate, old ones end."""
    for lease, source in new.sources.items():
        lease.source = source
    kept = set(new.leases.values())
    for lease in [] if old is None else old.leases.values():
        if lease not in kept:
            spawn(lease.close(), name="token-revoke")


async def revoke_all(parts: TokenParts) -> None:
    """Drops all tokens and has them revoked, as far as that is done in `REVOKE_SECONDS`."""
    closing = [asyncio.ensure_future(lease.close()) for lease in parts.leases.values()]  # noqa: TID251 - awaited below
    if closing:
        _, late = await asyncio.wait(closing, timeout=REVOKE_SECONDS)
        for task in late:
            task.cancel()
