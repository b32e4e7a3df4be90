from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from bench import session as sessions
from bench.errors import CouldNotRunError
from bench.peers.peer import Work
from bench.result import Result
from bench.rows.row import Contestant, Line, Reading, Row
from bench.session import Session, Settings

if TYPE_CHECKING:
    from pathlib import Path

    from bench.certificates import Certificates

LINE = Line("x", "a row", "µs")
OTHER = Line("x.other", "the same row", "KB")


@dataclass(frozen=True)
class Named:
    """A peer with a name and perhaps a lack."""

    name: str
    lack: str | None = None

    def missing(self, work: Work) -> str | None:
        return self.lack


ROW = Row("x", "a row", (LINE,), dict.fromkeys(("sidecar", "nginx", "envoy"), Work.HTTP), lambda _session, _row: None)
PEERS = {name: Named(name) for name in ("sidecar", "nginx")} | {"envoy": Named("envoy", "not installed")}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def session(tmp_path: Path, certificates: Certificates, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr(sessions, "PEERS", PEERS)
    result = Result({}, list(PEERS))
    result.announce([LINE])
    settings = Settings(tuple(PEERS), ("x",), rounds=3)
    return Session(settings, certificates, tmp_path, (0, 1), result, said.append)


def test_rounds_are_interleaved(session: Session) -> None:
    """A B A B A B, after everybody was prepared."""
    order: list[tuple[str, str]] = []

    def prepare(contestant: Contestant) -> str:
        order.append(("prepare", contestant.peer.name))
        return contestant.peer.name.upper()

    def measure(contestant: Contestant, state: str) -> Reading:
        order.append(("measure", state))
        return Reading((float(len(order)),), {"requests/s": 7.0})

    session.interleave(ROW, session.contestants(ROW), prepare, measure)
    assert order == [("prepare", "sidecar"), ("prepare", "nginx")] + [("measure", "SIDECAR"), ("measure", "NGINX")] * 3
    assert session.result.cell("x", "sidecar").rounds == [3.0, 5.0, 7.0]
    assert session.result.cell("x", "nginx").rounds == [4.0, 6.0, 8.0]
    assert session.result.cell("x", "nginx").notes == [{"requests/s": 7.0}] * 3


def test_progress_is_told_round_by_round(session: Session, said: list[str]) -> None:
    session.interleave(ROW, session.contestants(ROW), lambda _: None, lambda _c, _s: Reading((1.5,), {"GB/s": 2.0}))
    rounds = [line for line in said if "round" in line]
    assert len(rounds) == 6
    assert rounds[0].endswith("round 1/3  sidecar    1.50 µs, 2.00 GB/s")


def test_who_is_missing_is_put_down_with_the_reason(session: Session, said: list[str]) -> None:
    found = session.contestants(ROW)
    assert [contestant.peer.name for contestant in found] == ["sidecar", "nginx"]
    assert session.result.cell("x", "envoy").missing == "not installed"
    assert "envoy is missing: not installed" in said[0]


def test_a_line_that_this_machine_cannot_measure_is_no_failure(session: Session) -> None:
    session.result.announce([OTHER])
    session.interleave(ROW, session.contestants(ROW), lambda _: None, lambda _c, _s: Reading((1.0,)))
    assert not session.went_well
    session.result.cell("x.other", "sidecar").missing = "swtpm is not installed"
    assert session.went_well


def test_who_was_not_asked_for_is_not_missing(session: Session) -> None:
    session.settings = Settings(("sidecar",), ("x",))
    assert [contestant.peer.name for contestant in session.contestants(ROW)] == ["sidecar"]
    assert session.result.cells["x"] == {}


def test_who_cannot_start_stops_nobody_else(session: Session) -> None:
    def prepare(contestant: Contestant) -> None:
        if contestant.peer.name == "sidecar":
            raise CouldNotRunError("sidecar ended before it answered: not served yet")

    session.interleave(ROW, session.contestants(ROW), prepare, lambda _c, _s: Reading((1.0,)))
    assert session.result.cell("x", "sidecar").trouble == (
        "sidecar ended before it answered: not served yet (before the first round)"
    )
    assert session.result.cell("x", "nginx").rounds == [1.0] * 3
    assert not session.went_well


def test_a_round_that_fails_is_the_last_one_and_spoils_the_cell(session: Session) -> None:
    played: list[str] = []

    def measure(contestant: Contestant, _: None) -> Reading:
        played.append(contestant.peer.name)
        if played.count("nginx") == 2 and contestant.peer.name == "nginx":
            raise CouldNotRunError("errors under load: 3 read")
        return Reading((1.0,))

    session.interleave(ROW, session.contestants(ROW), lambda _: None, measure)
    assert played == ["sidecar", "nginx", "sidecar", "nginx", "sidecar"]
    assert session.result.cell("x", "nginx").trouble == "errors under load: 3 read (in round 2)"
    assert session.result.measured("x", "nginx") is None
    assert session.went_well


def test_several_lines_take_a_value_each(session: Session) -> None:
    session.result.announce([OTHER])
    contestant = Contestant(Named("sidecar"), Work.HTTP, ("x", "x.other"))  # type: ignore[arg-type]
    session.interleave(ROW, [contestant], lambda _: None, lambda _c, _s: Reading((1.0, 2.0)))
    assert session.result.cell("x", "sidecar").rounds == [1.0] * 3
    assert session.result.cell("x.other", "sidecar").rounds == [2.0] * 3


def test_a_bug_is_no_peer_that_could_not_run(session: Session) -> None:
    def measure(_: Contestant, _state: None) -> Reading:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        session.interleave(ROW, session.contestants(ROW), lambda _: None, measure)


def test_a_site_leaves_nothing_behind(session: Session, tmp_path: Path) -> None:
    with session.site() as site:
        site.file("x.conf", "text")
        assert list(tmp_path.iterdir()) == [site.crew.folder]
    assert list(tmp_path.iterdir()) == []
