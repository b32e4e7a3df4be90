"""What the admin socket and the health listener may ask the running process."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from sidecar.admin.answers import GivenToken, NoToken
from sidecar.app import token_status
from sidecar.config.effective import effective
from sidecar.tokens.codes import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.app.build import Generation
    from sidecar.app.server import Server
    from sidecar.proxy.connection import Connection
    from sidecar.proxy.hub import Hub


class Status:
    """Answers from the state in force; never depends on the agent or a peer."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def ready(self) -> str | None:
        """Returns None when the proxy can serve, else a stable reason."""
        server = self._server
        if server.hub.draining:
            return "draining"
        if len(server.listeners) < len(server.generation.services):
            return "starting"
        svid = server.generation.own.svid
        now = server.clock.wall()
        if now > svid.not_after:
            return "identity_expired"
        if now < svid.not_before:
            return "identity_not_yet_valid"
        return server.generation.key.trouble

    def metrics(self) -> bytes:
        """Returns the metrics as Prometheus text."""
        return self._server.metrics.render()

    def config(self) -> dict[str, Any]:
        """Returns the effective configuration; it has no place for a secret."""
        generation = self._server.generation
        return effective(generation.loaded.config) | {"policy_version": generation.policy_version}

    def certs(self) -> list[dict[str, Any]]:
        """Returns our own identity: name, expiry, pin, and how its key is protected."""
        own = self._server.generation.own
        return [
            {
                "identity": own.name,
                "serial": own.svid.serial,
                "not_before": own.svid.not_before,
                "not_after": own.svid.not_after,
                "pin": own.pin,
                "key_protection": own.protection,
            }
        ]

    def tokens(self) -> dict[str, Any]:
        """Returns the token sources and the issuers whose tokens we check; never a token."""
        generation = self._server.generation
        parts = generation.tokens
        return {
            "tokens": token_status.status(generation.loaded.config.tokens, parts),
            "issuers": [keys.status() for keys in parts.keys.values()],
        }

    async def token(self, name: str) -> GivenToken | NoToken | None:
        """Returns a fresh token of a source with ``helper: true``; None where there is no such one."""
        lease = self._server.generation.tokens.helpers.get(name)
        if lease is None:
            return None
        try:
            token = (await lease.obtain()).token
        except SourceError as error:
            return NoToken(str(error.code))
        self._server.messages.info("a token was given out by the admin socket", source=name)
        return GivenToken(token.value)

    def connections(self) -> Iterator[dict[str, Any]]:
        """Gives the live downstream connections with their peers."""
        return (_connection(connection) for connection in self._server.hub.connections)

    def drain(self) -> None:
        """Begins the drain, as SIGTERM does."""
        self._server.begin_drain()


def show(hub: Hub, generation: Generation) -> None:
    """Tells the metrics what is in force."""
    metrics = hub.metrics
    metrics.certificate_expiry_timestamp_seconds.set(generation.own.svid.not_after)
    metrics.set_policy(generation.policy_version)
    for role, workers in hub.steps.items():
        metrics.handshake_queue.labels(str(role)).source = lambda workers=workers: workers.waiting
    metrics.key_info.clear()
    metrics.key_info.labels(generation.own.protection).set(1)
    token_status.show(hub, generation.tokens)
    metrics.set_build(ssl.OPENSSL_VERSION)


def _connection(connection: Connection) -> dict[str, Any]:
    service = connection.service
    peer = connection.peer
    shown: dict[str, Any] = {
        "direction": service.direction,
        "listener": service.name,
        "protocol": connection.kind.value,
        "src.addr": connection.stream.remote,
    }
    client = connection.stream.client
    if client is not None:
        shown["src.uid"] = client.uid
        if client.pid is not None:
            shown["src.pid"] = client.pid
    if peer is not None:
        shown |= {"src.identity": str(peer.id), "src.pin": str(peer.pin), "cert.serial": peer.serial}
    return shown | connection.details()
