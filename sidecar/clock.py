"""The one clock: everything else is told the time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Clock:
    """Two readings: ``wall``, seconds since the epoch, for certificates and logs; ``monotonic``, seconds, for limits."""

    wall: Callable[[], float] = time.time  # noqa: TID251 - this is the one place
    monotonic: Callable[[], float] = time.monotonic
