"""Metrics as Prometheus text, by the library that knows the format. Loaded by the first scrape only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from sidecar.telemetry.metrics import Metrics

CONTENT_TYPE: str = CONTENT_TYPE_LATEST


class _Collector(Collector):
    """Hands our families to the library, as they are at this moment; those without a child are left out."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for counters in self._metrics.counters:
            if counters.children:
                metric = CounterMetricFamily(counters.name, counters.help, labels=counters.label_names)
                for values, counter in counters.children.items():
                    metric.add_metric(values, counter.read())
                yield metric
        for gauges in self._metrics.gauges:
            if gauges.children:
                level = GaugeMetricFamily(gauges.name, gauges.help, labels=gauges.label_names)
                for values, gauge in gauges.children.items():
                    level.add_metric(values, gauge.read())
                yield level
        for histograms in self._metrics.histograms:
            if histograms.children:
                spread = HistogramMetricFamily(histograms.name, histograms.help, labels=histograms.label_names)
                for values, histogram in histograms.children.items():
                    spread.add_metric(values, list(histogram.buckets()), histogram.total)
                yield spread


def render(metrics: Metrics) -> bytes:
    """Returns the text of a scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(metrics))
    return generate_latest(registry)
