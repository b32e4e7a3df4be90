"""All rows, in the order in which they run and are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.rows.growth import CONNECTIONS, SOAK
from bench.rows.handshakes import HANDSHAKE, PER_CONNECTION
from bench.rows.idle import IDLE
from bench.rows.keys import KEYS, STALL
from bench.rows.memory import MEMORY
from bench.rows.percentiles import PERCENTILES
from bench.rows.requests import BULK, BULK_TCP, HTTP, LATENCY, TCP, UPLOAD
from bench.rows.settings import LOG, RULES
from bench.rows.streams import SSE
from bench.rows.tokens import TOKENS
from bench.rows.workers import WORKERS

if TYPE_CHECKING:
    from bench.rows.row import Row

#: The rows of the budgets first.
ROWS: Final[dict[str, Row]] = {
    row.id: row
    for row in (
        *(HTTP, TCP, BULK, BULK_TCP, HANDSHAKE, LATENCY, MEMORY, RULES, TOKENS),
        *(UPLOAD, SSE, IDLE, PER_CONNECTION, KEYS, STALL, LOG, WORKERS, PERCENTILES),
        *(CONNECTIONS, SOAK),
    )
}
