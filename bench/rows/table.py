"""All rows, in the order in which they run and are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.rows.handshakes import HANDSHAKE, PER_CONNECTION
from bench.rows.memory import MEMORY
from bench.rows.requests import BULK, BULK_TCP, HTTP, LATENCY, TCP, UPLOAD

if TYPE_CHECKING:
    from bench.rows.row import Row

ROWS: Final[dict[str, Row]] = {
    row.id: row for row in (HTTP, TCP, BULK, BULK_TCP, HANDSHAKE, LATENCY, MEMORY, UPLOAD, PER_CONNECTION)
}
