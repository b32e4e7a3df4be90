"""The references in docs/ name every field, event, code and metric there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar.admin.address import AddressCode
from sidecar.app.workers.wire import WorkerCode
from sidecar.http.errors import HttpCode
from sidecar.identity.refusal import Refusal
from sidecar.keys.errors import SignCode
from sidecar.keys.wire import WireCode
from sidecar.policy.decision import Reason
from sidecar.policy.paths import PathCode
from sidecar.proxy.failure import BindCode, ProxyCode
from sidecar.signer.log import UseCode
from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.record import CONTEXT_FIELDS, Decision, Event
from sidecar.telemetry.sink import SinkCode
from sidecar.tls.client_hello import HelloCode
from sidecar.tls.failure import SigningCode, TlsCode, is_alert
from sidecar.tokens.codes import SourceCode, TokenCode

if TYPE_CHECKING:
    from enum import StrEnum

DOCS = Path(__file__).parents[3] / "docs"
LOG = (DOCS / "log.md").read_text(encoding="utf-8")
METRICS = (DOCS / "metrics.md").read_text(encoding="utf-8")


def table_words(text: str) -> set[str]:
    """Returns the words in backticks of every table's first column."""
    return {
        word
        for line in text.splitlines()
        if line.startswith("| `")
        for word in re.findall(r"`([^`]+)`", line.split("|")[1])
    }


@pytest.mark.parametrize(
    "codes",
    [
        Event,
        Reason,
        PathCode,
        Refusal,
        HttpCode,
        ProxyCode,
        HelloCode,
        AddressCode,
        BindCode,
        SinkCode,
        SourceCode,
        TokenCode,
        SignCode,
        SigningCode,
        UseCode,
        WireCode,
        WorkerCode,
    ],
    ids=lambda codes: codes.__name__,
)
def test_every_code_is_documented(codes: type[StrEnum]) -> None:
    assert {code.value for code in codes} - table_words(LOG) == set()


def test_every_tls_failure_is_documented_and_alerts_as_a_group() -> None:
    assert {code.value for code in TlsCode if not is_alert(code)} - table_words(LOG) == set()
    assert all(code.value.startswith("peer_alert_") for code in TlsCode if is_alert(code))
    assert "peer_alert_…" in table_words(LOG)


def test_every_field_is_documented() -> None:
    own = {"time", "event", "bytes_sent", "bytes_received", "duration_ms", "error", "decision"}
    dotted = {"http.method", "http.path", "http.status", "decision.rule", "decision.reason", "decision.id"}
    others = {"policy.version", "session.id", "trace.id", "incident"}
    others |= {f"token.{name}" for name in ("issuer", "subject", "id", "scopes", "detail")}
    assert (own | dotted | others | set(CONTEXT_FIELDS.values())) - table_words(LOG) == set()
    assert {f"`{decision.value}`" for decision in Decision} <= set(re.findall(r"`\w+`", LOG))


def test_every_metric_is_documented_with_its_labels() -> None:
    metrics = Metrics()
    documented = {
        cells[1].strip(" `"): tuple(re.findall(r"`(\w+)`", cells[3]))
        for cells in (line.split("|") for line in METRICS.splitlines() if line.startswith("| `sidecar_"))
    }
    families = [*metrics.counters, *metrics.gauges, *metrics.histograms]
    assert documented == {family.name: family.label_names for family in families}


def test_nothing_is_documented_twice() -> None:
    rows = [line.split("|")[1].strip() for line in METRICS.splitlines() if line.startswith("| `")]
    assert len(rows) == len(set(rows))
