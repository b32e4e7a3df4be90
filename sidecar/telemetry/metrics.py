"""Counters, gauges and histograms, and the families that a scrape sees. `docs/metrics.md` says what each means.

The hot path touches plain attributes: `labels` is asked once, where a listener or connection is set up, and the child
it gives is kept. No locks: all of them are changed by the event loop's thread alone. Label values are our own words
and the configuration's names, never something from the wire, and a family holds a bounded number of them.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from enum import Enum, auto
from typing import TYPE_CHECKING, Generic, TypeVar

from sidecar import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PREFIX = "sidecar_"
#: Children of one family. One more shares a child whose labels all say `OVERFLOW`: counting goes on, memory does not.
MAX_CHILDREN = 1000
OVERFLOW = "other"

#: Upper bounds in seconds. Requests: a local hop to a long call of a tool. Handshakes and signatures: software to TPM.
REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
HANDSHAKE_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIGN_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Across(Enum):
    """What the values of a gauge in several worker processes are together."""

    #: Each counts its own.
    SUM = auto()
    #: All know the same, or the largest says most.
    MAX = auto()


class Counter:
    """Only ever grows."""

    __slots__ = ("source", "value")

    def __init__(self) -> None:
        self.value = 0
        #: Where the value is kept elsewhere: called at a scrape.
        self.source: Callable[[], float] | None = None

    def inc(self, n: int = 1) -> None:
        """Adds."""
        self.value += n

    def read(self) -> float:
        """Returns the value now."""
        return self.value if self.source is None else self.source()


class Gauge:
    """Goes up and down."""

    __slots__ = ("source", "value")

    def __init__(self) -> None:
        self.value = 0.0
        #: Where the value is kept elsewhere: called at a scrape.
        self.source: Callable[[], float] | None = None

    def set(self, value: float) -> None:
        """Replaces the value."""
        self.value = value

    def inc(self, n: float = 1) -> None:
        """Adds."""
        self.value += n

    def dec(self, n: float = 1) -> None:
        """Takes away."""
        self.value -= n

    def read(self) -> float:
        """Returns the value now."""
        return self.value if self.source is None else self.source()


class Histogram:
    """How often values fell into which range."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        #: One for each bound, and one for what lies above them all; not cumulated.
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts one value, in seconds."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Gives (upper bound, number of values up to it), ending with ``+Inf``."""
        below = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            below += count
            yield bound, below


Child = TypeVar("Child", Counter, Gauge, Histogram)


class Family(Generic[Child]):
    """A metric with labels: one child for each combination of their values."""

    __slots__ = ("_make", "across", "children", "help", "label_names", "name")

    def __init__(self, name: str, text: str, label_names: tuple[str, ...], make: Callable[[], Child]) -> None:
        self.name = name
        self.help = text
        self.label_names = label_names
        self.children: dict[tuple[str, ...], Child] = {}
        #: For a gauge.
        self.across = Across.SUM
        self._make: Callable[[], Child] = make

    def labels(self, *values: str) -> Child:
        """Returns the child for these values, in the order of the label names; the same one every time."""
        child = self.children.get(values)
        if child is not None:
            return child
        if len(values) != len(self.label_names):
            raise TypeError(f"{self.name} takes {len(self.label_names)} label values, not {len(values)}")
        if len(self.children) >= MAX_CHILDREN:
            values = (OVERFLOW,) * len(values)
        return self.children.setdefault(values, self._make())

    def remove(self, *values: str) -> None:
        """Forgets a child: what it counted is gone."""
        self.children.pop(values, None)

    def clear(self) -> None:
        """Forgets all children."""
        self.children.clear()


def status_class(status: int) -> str:
    """``2xx`` for 200; ``none`` for a request that got no answer."""
    return f"{status // 100}xx" if 100 <= status < 600 else "none"


class Metrics:
    """All families of the process. Those without labels are their only child."""

    def __init__(self) -> None:
        self.counters: list[Family[Counter]] = []
        self.gauges: list[Family[Gauge]] = []
        self.histograms: list[Family[Histogram]] = []
        counter, gauge, histogram = self._counter, self._gauge, self._histogram

        self.requests_total = counter(
            "requests_total", "Requests that came to their end.", "direction", "listener", "decision", "status_class"
        )
        self.request_duration_seconds = histogram(
            "request_duration_seconds",
            "From a request's head to the end of its response.",
            REQUEST_SECONDS,
            "direction",
            "listener",
        )
        self.denied_total = counter("denied_total", "Requests that policy denied.", "reason")
        self.tunnels_total = counter(
            "tunnels_total", "Tunnels that ended, and connections denied one.", "direction", "listener", "decision"
        )
        self.tunnel_bytes_total = counter(
            "tunnel_bytes_total", "Bytes that tunnels carried.", "direction", "listener", "flow"
        )
        self.refused_total = counter("refused_total", "Connections closed before a request was read.", "code")
        self.accept_errors_total = counter("accept_errors_total", "Connections that could not be accepted.", "error")
        self.connections = gauge("connections", "Open downstream connections.", "direction")
        self.handshakes_total = counter("handshakes_total", "TLS handshakes.", "role", "result", "resumed")
        self.handshake_duration_seconds = histogram(
            "handshake_duration_seconds", "TLS handshakes that succeeded.", HANDSHAKE_SECONDS
        ).labels()
        self.sign_duration_seconds = histogram(
            "sign_duration_seconds", "Signatures with our own key.", SIGN_SECONDS, "protection"
        )
        self.sign_failures_total = counter(
            "sign_failures_total", "Signatures with our own key that could not be had.", "protection", "code"
        )
        self.key_info = gauge("key_info", "The protection of our own key, as a label.", "protection", across=Across.MAX)
        self.handshake_queue = gauge(
            "handshake_queue", "Handshake steps that wait for a thread, where our key is in a device.", "role"
        )
        self.certificate_expiry_timestamp_seconds = gauge(
            "certificate_expiry_timestamp_seconds",
            "When our own certificate expires, in seconds since the epoch.",
            across=Across.MAX,
        ).labels()
        self.reloads_total = counter("reloads_total", "Configuration reloads.", "result")
        self.tokens_refreshed_total = counter("tokens_refreshed_total", "Tokens fetched.", "source", "result")
        self.token_age_seconds = gauge(
            "token_age_seconds", "Age of the token in use; 0 without one.", "source", "entry", across=Across.MAX
        )
        self.token_expiry_timestamp_seconds = gauge(
            "token_expiry_timestamp_seconds",
            "When the token in use expires, in seconds since the epoch; 0 without one, or where it does not say.",
            "source",
            "entry",
            across=Across.MAX,
        )
        self.tokens_refused_total = counter(
            "tokens_refused_total", "Requests that lacked nothing but a token.", "listener", "code"
        )
        self.jwks_refreshed_total = counter("jwks_refreshed_total", "Key sets of issuers fetched.", "issuer", "result")
        self.jwks_age_seconds = gauge(
            "jwks_age_seconds", "Age of an issuer's keys; 0 without any.", "issuer", across=Across.MAX
        )
        self.incidents_total = counter("incidents_total", "What somebody has to look into.", "kind")
        self.retries_total = counter("retries_total", "Requests sent a second time.", "direction", "listener")
        self.limit_hits_total = counter("limit_hits_total", "Times that a limit was met.", "limit")
        self.log_dropped_total = counter("log_dropped_total", "Access log lines that were never written.").labels()
        self.internal_errors_total = counter("internal_errors_total", "Exceptions that nobody expected.", "where")
        self.policy_info = gauge("policy_info", "The policy in force, as a label.", "version", across=Across.MAX)
        self.workers = gauge("workers", "Worker processes that serve; absent where there is only one process.")
        self.worker_restarts_total = counter("worker_restarts_total", "Worker processes that ended and were replaced.")
        self.build_info = gauge(
            "build_info", "What runs, as labels.", "version", "python", "openssl", across=Across.MAX
        )

    def accept_failed(self, error: str) -> None:
        """Counts a connection that could not be accepted, by the name of its errno."""
        self.accept_errors_total.labels(error).inc()

    def set_policy(self, version: str) -> None:
        """Names the policy in force."""
        self.policy_info.clear()
        self.policy_info.labels(version).set(1)

    def set_build(self, openssl: str) -> None:
        """Names what runs."""
        python = sys.version.split(maxsplit=1)[0]  # `platform` knows no more, and is large
        self.build_info.labels(__version__, python, openssl).set(1)

    def render(self) -> bytes:
        """Returns all families that have a child as Prometheus text; `content_type` names the format.

        The library that knows the format is loaded by the first call: a proxy that nobody scrapes does without it.
        """
        from sidecar.telemetry.exposition import render  # noqa: PLC0415 - see above

        return render(self)

    @staticmethod
    def content_type() -> str:
        """The media type of what `render` returns."""
        from sidecar.telemetry.exposition import CONTENT_TYPE  # noqa: PLC0415 - as in render

        return CONTENT_TYPE

    def _counter(self, name: str, text: str, *labels: str) -> Family[Counter]:
        family = Family(PREFIX + name, text, labels, Counter)
        self.counters.append(family)
        return family

    def _gauge(self, name: str, text: str, *labels: str, across: Across = Across.SUM) -> Family[Gauge]:
        family = Family(PREFIX + name, text, labels, Gauge)
        family.across = across
        self.gauges.append(family)
        return family

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Family[Histogram]:
        family = Family(PREFIX + name, text, labels, lambda: Histogram(bounds))
        self.histograms.append(family)
        return family
