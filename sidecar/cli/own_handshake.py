"""The handshake of an outbound entry, made by a command as the proxy makes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar.app.own_key import OwnKey
from sidecar.config.values import Resumption, Tls
from sidecar.inspection.own import handshake
from sidecar.tls.contexts import Credentials, client_context
from sidecar.tls.expectation import expect_peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.clock import Clock
    from sidecar.config.load import Loaded
    from sidecar.config.values import Outbound
    from sidecar.inspection.own import Own
    from sidecar.inspection.wire import Wire

#: As whom ordinary HTTPS services see us.
NOBODY: Final = "a client without a certificate"


class How(NamedTuple):
    """Where the peer is, and what the hello says."""

    dial: Callable[[], Wire]
    server_name: str | None
    alpn: tuple[str, ...]
    clock: Clock


async def own_handshake(loaded: Loaded, entry: Outbound, how: How) -> Own:
    """Connects with full verification and our identity, or without it to an ordinary HTTPS service.

    Nothing else runs in this loop, so it may wait. Raises any SidecarError.
    """
    if entry.tls is Tls.PUBLIC:
        return _site(entry, how)
    key = await OwnKey.open(loaded)
    try:
        resume = loaded.config.resumption_of(entry) is Resumption.ALLOW
        context = client_context(
            Credentials(loaded.material.chain_pem, key.private_key),
            loaded.material.bundles,
            entry.named_peer.trust_domain,
            expect_peer(entry.named_peer, entry.pins),
            how.alpn,
            resumption=resume,
        )
        return handshake(how.dial, context, how.server_name, how.clock, resume=resume)
    finally:
        await key.close()


def _site(entry: Outbound, how: How) -> Own:
    from sidecar.tls.site import SiteContext, site_tls  # noqa: PLC0415 - for such entries alone

    name = entry.server_name or entry.service.host
    return handshake(how.dial, SiteContext(site_tls(), name, entry.pins), name, how.clock, resume=False)
