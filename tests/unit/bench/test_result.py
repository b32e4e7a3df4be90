from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bench.errors import UsageError
from bench.figures import Cell
from bench.result import Result
from bench.rows.row import Line
from tests.support.bench import HTTP, LOG, result

if TYPE_CHECKING:
    from pathlib import Path


def test_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    rate = Line("keys.rate", "connections", "a second", more=True)
    made = result(HTTP, LOG, rate, http={"sidecar": [1.0, 2.0], "envoy": Cell(missing="not installed")})
    (tmp_path / "result.json").write_text(json.dumps(made.as_json()))
    assert Result.read(tmp_path / "result.json") == made


def test_every_round_stands_in_the_file() -> None:
    made = result(HTTP, http={"sidecar": [3.0, 1.0, 2.0]}).as_json()
    (line,) = made["lines"]
    assert line["peers"]["sidecar"]["rounds"] == [3.0, 1.0, 2.0]
    assert line["peers"]["sidecar"]["median"] == 2.0
    assert made["machine"]["cores"] == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 99, "lines": []}', '"text"'])
def test_what_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UsageError, match=r"x\.json"):
        Result.read(tmp_path / "x.json")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        Result.read(tmp_path / "none.json")


def test_troubles_name_line_peer_and_reason() -> None:
    made = result(
        HTTP, http={"sidecar": [1.0], "nginx": Cell([1.0], trouble="3 errors"), "envoy": Cell(missing="not installed")}
    )
    assert made.troubles() == [
        ("http", "nginx", "could not run: 3 errors"),
        ("http", "envoy", "missing: not installed"),
    ]
    assert made.measured("http", "nginx") is None
    assert made.measured("http", "sidecar") == Cell([1.0])
    assert made.measured("other", "sidecar") is None
