"""The rows of keys: every line is somebody's, and a kind of key that this machine lacks stops no other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from bench.errors import CouldNotRunError
from bench.keys.kind import FileKey
from bench.keys.table import KINDS
from bench.load.programs import Crowd
from bench.result import Result
from bench.rows import keys
from bench.rows.keys import _STALL, CLIENTS, KEYS, STALL, contestants
from bench.session import Session, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.certificates import Certificates
    from bench.keys.kind import Given
    from bench.site import Site


@dataclass(frozen=True)
class Lacking:
    """A kind of key that no machine has."""

    name: str = "lacking"
    title: str = "key in a crystal"

    def missing(self) -> str | None:
        return "apt-get install crystal"

    def begin(self, site: Site) -> Given:
        raise NotImplementedError


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def session(tmp_path: Path, certificates: Certificates, said: list[str]) -> Session:
    result = Result({}, ["sidecar"])
    result.announce(KEYS.lines)
    return Session(Settings(("sidecar",), ("keys",)), certificates, tmp_path, (0, 1), result, said.append)


def test_every_line_is_filled_by_one_kind() -> None:
    filled = [line for kind in KINDS for line in keys._lines(kind)]
    assert sorted(filled) == sorted(line.id for line in KEYS.lines)
    assert [line for lines in _STALL.values() for line in lines] == [line.id for line in STALL.lines]


def test_rates_are_the_lines_in_which_more_is_better() -> None:
    assert {line.id for line in KEYS.lines if line.more} == {line.id for line in KEYS.lines if line.unit == "a second"}
    assert sum(line.more for line in KEYS.lines) == 2 * len(KINDS)


def test_a_kind_that_is_missing_is_named_and_no_failure(session: Session, said: list[str]) -> None:
    lines = ("keys.full.tpm", "keys.full.tpm.rate")
    found = contestants(session, KEYS, {FileKey(): ("keys.full.file",), Lacking(): lines})
    assert [(kind.name, contestant.lines) for contestant, kind in found.items()] == [("file", ("keys.full.file",))]
    assert [session.result.cell(line, "sidecar").missing for line in lines] == ["apt-get install crystal"] * 2
    assert "key in a crystal is missing: apt-get install crystal" in said[0]


@pytest.mark.parametrize(("connected", "well"), [(CLIENTS * 2, True), (CLIENTS * 2 - 1, False)])
def test_a_crowd_of_which_somebody_is_missing_does_not_count(
    site: Site, monkeypatch: pytest.MonkeyPatch, connected: int, *, well: bool
) -> None:
    from contextlib import contextmanager, nullcontext

    @contextmanager
    def crowding(*_: object) -> Iterator[Crowd]:
        yield Crowd(connected, 640.0)

    monkeypatch.setattr(keys, "crowding", crowding)
    notes: dict[str, float] = {}
    with nullcontext() if well else pytest.raises(CouldNotRunError, match="15 of 16"), keys._checked(2, notes, site, 1):
        pass
    assert notes == ({"handshakes": 16, "ms the median handshake": 640.0} if well else {})
