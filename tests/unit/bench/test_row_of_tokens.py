"""The row of tokens: what goes with a token is compared with what went without in the same round, and with nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.errors import CouldNotRunError
from bench.load.wrk import Sent
from bench.result import Result
from bench.rows import tokens
from bench.rows.tokens import TOKENS, WITHOUT, compared, lines_of
from bench.session import Session, Settings
from bench.site import Running
from bench.tokens.table import KINDS

if TYPE_CHECKING:
    from pathlib import Path

    from bench.certificates import Certificates
    from bench.rows.row import Contestant
    from bench.site import Site


@pytest.fixture
def session(tmp_path: Path, certificates: Certificates) -> Session:
    result = Result({}, ["sidecar"])
    result.announce(TOKENS.lines)
    settings = Settings(("sidecar",), ("tokens",), rounds=2, seconds=1)
    return Session(settings, certificates, tmp_path, (0, 1), result, lambda _: None)


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """CPU microseconds of each round, by the first line of who is measured; nothing is started."""
    costs: dict[str, list[float]] = {}
    names: dict[int, str] = {}

    def begun(contestant: Contestant) -> Running:
        port = len(names) + 1
        names[port] = contestant.lines[0]
        return Running(port, ())

    def loaded(_site: Site, running: Running, _load: object, _seconds: float) -> tuple[Sent, float]:
        left = costs[names[running.port]]
        if not left:
            raise CouldNotRunError("errors under load: 1 status")
        return Sent(1_000, 1, 100.0, 200.0), left.pop(0) / 1_000

    monkeypatch.setattr(tokens.web, "start", lambda _: 1)
    monkeypatch.setattr(tokens, "start_pair", lambda _site, contestant, _upstream: begun(contestant))
    monkeypatch.setattr(tokens, "start", lambda _site, contestant, _kind, _upstream: begun(contestant))
    monkeypatch.setattr(tokens, "warm", lambda *_: None)
    monkeypatch.setattr(tokens, "loaded", loaded)
    return costs


def test_every_line_is_filled_by_one_kind() -> None:
    assert [WITHOUT, *(line for kind in KINDS for line in lines_of(kind))] == [line.id for line in TOKENS.lines]


def test_each_round_is_compared_with_its_own(session: Session, costs: dict[str, list[float]]) -> None:
    costs |= {WITHOUT: [100.0, 50.0], "tokens.self-signed": [110.0, 60.0], "tokens.issuer": [120.0, 75.0]}
    TOKENS.play(session, TOKENS)
    rounds = {line: session.result.cell(line, "sidecar").rounds for line in session.result.lines}
    assert rounds == {
        WITHOUT: pytest.approx([100, 50]),
        "tokens.self-signed": pytest.approx([110, 60]),
        "tokens.self-signed.added": pytest.approx([10, 10]),
        "tokens.self-signed.ratio": pytest.approx([1.1, 1.2]),
        "tokens.issuer": pytest.approx([120, 75]),
        "tokens.issuer.added": pytest.approx([20, 25]),
        "tokens.issuer.ratio": pytest.approx([1.2, 1.5]),
    }
    assert session.went_well


def test_a_round_without_a_measure_is_compared_with_nothing_older(
    session: Session, costs: dict[str, list[float]]
) -> None:
    costs |= {WITHOUT: [100.0], "tokens.self-signed": [110.0, 60.0], "tokens.issuer": [120.0, 75.0]}
    TOKENS.play(session, TOKENS)
    assert session.result.cell("tokens.self-signed.added", "sidecar").rounds == pytest.approx([10])
    assert "nothing to compare with" in (session.result.cell("tokens.self-signed", "sidecar").trouble or "")
    assert not session.went_well


def test_a_comparison_needs_two() -> None:
    assert compared(90.0, 60.0) == (90.0, 30.0, 1.5)
    with pytest.raises(CouldNotRunError, match="nothing to compare with"):
        compared(90.0, 0.0)
