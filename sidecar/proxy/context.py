"""Who is at the ends of a connection, for the log: encoded once for each connection, whatever it carries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.proxy.tls_stream import TlsStream
from sidecar.telemetry.record import Context

if TYPE_CHECKING:
    from sidecar.proxy.connection import Connection, Entry
    from sidecar.proxy.service import Self


def caller_context(entry: Entry, own: Self, connection: Connection, upstream: str) -> Context:
    """Says which caller an inbound connection is from, as far as it is proven, where it leads, and whom it was shown."""
    peer, stream = connection.peer, connection.stream
    # What the caller calls us: worth a line in the log, and deciding nothing.
    sni = stream.engine.server_name_received if isinstance(stream, TlsStream) and peer is not None else None
    return Context.of(
        direction=entry.direction,
        listener=entry.name,
        src_identity=None if peer is None else str(peer.id),
        src_addr=stream.remote or None,
        src_pin=None if peer is None else str(peer.pin),
        dst_identity=own.name,
        dst_addr=upstream,
        dst_name=sni,
        cert_serial=None if peer is None else peer.serial,
        key_protection=own.protection,
    )


def agent_context(entry: Entry, own: Self, connection: Connection) -> Context:
    """Says which connection of the agent an outbound one is, and that we speak for it."""
    client = connection.stream.client
    return Context.of(
        direction=entry.direction,
        listener=entry.name,
        src_identity=own.name,
        src_addr=connection.stream.remote or None,
        src_uid=None if client is None else client.uid,
        src_pid=None if client is None else client.pid,
        src_pin=own.pin,
        key_protection=own.protection,
    )
