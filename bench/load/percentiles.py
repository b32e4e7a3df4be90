"""Percentiles of a sample."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def percentile(rising: Sequence[float], share: float) -> float:
    """The least value that at least that share of the sample does not exceed (nearest rank); the sample is sorted.

    Raises:
        ValueError: the sample is empty.

    """
    if not rising:
        raise ValueError("nothing was measured")
    return rising[max(math.ceil(share * len(rising)), 1) - 1]
