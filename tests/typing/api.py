"""Keeps the public types honest: checked by mypy in strict mode, never run.

Whoever builds on the pure rings writes code like this; a signature that loses its types shows here first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

from sidecar.identity.bundle import TrustBundle
from sidecar.identity.peer import Peer, Role
from sidecar.identity.pins import Pin
from sidecar.identity.spiffe import SpiffeId, TrustDomain
from sidecar.identity.verify import verify
from sidecar.policy.decision import Denial, Permit
from sidecar.tokens.outcome import KeysWanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.policy.table import Table
    from sidecar.proxy.pool import Pool
    from sidecar.proxy.upstream import Upstream


def identity(pem: bytes, chain: Sequence[bytes], now: float) -> Peer:
    domain = TrustDomain.parse("example.org")
    assert_type(SpiffeId.parse("spiffe://example.org/agent/a/1"), SpiffeId)
    assert_type(Pin.parse("sha256:"), Pin)
    bundle = TrustBundle.parse(domain, pem, now)
    return assert_type(verify(chain, {domain: bundle}, role=Role.CLIENT, now=now), Peer)


async def permit(table: Table, peer: Peer, pool: Pool, now: float) -> Upstream | None:
    verdict = table.for_peer(peer).decide(b"GET", b"/", decision_id="", now=now)
    assert_type(verdict, Permit | Denial | KeysWanted)
    if isinstance(verdict, KeysWanted):
        await pool.dial(verdict)  # type: ignore[arg-type]
        return None
    if isinstance(verdict, Denial):
        # Without a permit there is no way on: the type checker refuses it here, and the pool does while running.
        await pool.dial(verdict)  # type: ignore[arg-type]
        return None
    return pool.take(verdict) or await pool.dial(verdict)
