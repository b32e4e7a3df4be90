"""Metrics of several processes as one: what each has, as JSON values, and the sum.

Counters and histograms are added up; `sidecar.telemetry.metrics.Across` says for each gauge what becomes of its values.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

from sidecar.telemetry.metrics import Across, Metrics

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.app.workers.channel import Content


def dump(metrics: Metrics) -> Content:
    """Returns the values of every child, as `add` takes them."""
    return {
        "counters": {f.name: [[list(k), c.read()] for k, c in f.children.items()] for f in metrics.counters},
        "gauges": {f.name: [[list(k), g.read()] for k, g in f.children.items()] for f in metrics.gauges},
        "histograms": {
            f.name: [[list(k), h.counts, h.total] for k, h in f.children.items()] for f in metrics.histograms
        },
    }


def add(total: Metrics, part: Content, *, gauges: bool = True) -> None:
    """Adds one process's values. Without ``gauges``, those of one that has ended: what it counted goes on counting.

    Raises ValueError for what is no `dump`; ``total`` is of no use then.
    """
    try:
        for family in total.counters:
            for labels, value in part["counters"][family.name]:
                family.labels(*_labels(labels)).value += _number(value)
        for spread in total.histograms:
            for labels, counts, seconds in part["histograms"][spread.name]:
                histogram = spread.labels(*_labels(labels))
                histogram.counts = [a + _number(b) for a, b in zip(histogram.counts, counts, strict=True)]
                histogram.total += _number(seconds)
        if gauges:
            _add_gauges(total, part)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError("no metrics of another process") from error


def _add_gauges(total: Metrics, part: Content) -> None:
    for family in total.gauges:
        for labels, value in part["gauges"][family.name]:
            names = _labels(labels)
            first = names not in family.children
            gauge = family.labels(*names)
            if family.across is Across.SUM or first:
                gauge.value += _number(value)
            else:
                gauge.value = max(gauge.value, _number(value))


def total(parts: Iterable[Content], ended: Content) -> Metrics:
    """Returns the sum of what processes have, and of what those that have ended had counted."""
    found = Metrics()
    for part in parts:
        add(found, part)
    add(found, ended, gauges=False)
    return found


def _labels(labels: object) -> tuple[str, ...]:
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError("no labels")
    return tuple(labels)


def _number(value: Any) -> Any:
    if not isinstance(value, int | float) or not isfinite(value):
        raise ValueError("no number")
    return value
