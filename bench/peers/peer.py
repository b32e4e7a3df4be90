"""What a row asks of a proxy, whichever it is."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from bench.site import Running, Site


class Work(StrEnum):
    """What is carried: HTTP/1.1 requests, which a proxy reads and decides on, or opaque bytes."""

    HTTP = "http"
    TCP = "tcp"


class Peer(Protocol):
    """A proxy with one worker, mutual TLS 1.3 between its two sides, and an access log in a file."""

    @property
    def name(self) -> str:
        """The column of the table."""
        ...

    def missing(self, work: Work) -> str | None:
        """Says what this machine lacks and how to get it; None when all is there."""
        ...

    def version(self) -> str:
        """One line that names the release, and its TLS library where it says so."""
        ...

    def inbound(self, site: Site, work: Work, upstream: int) -> Running:
        """Starts the side that terminates TLS, proves the caller, and forwards to a port in plaintext."""
        ...

    def outbound(self, site: Site, work: Work, inbound: int) -> Running:
        """Starts the side that takes plaintext and dials the inbound side at a port."""
        ...
