from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.demo.lines import find, lines, rows

if TYPE_CHECKING:
    from pathlib import Path


def test_no_file_has_no_lines(tmp_path: Path) -> None:
    assert list(lines(tmp_path / "absent")) == []


def test_a_line_that_is_still_being_written_is_none_yet(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text('{"a": 1}\n{"a": 2}\n{"a":')
    assert list(lines(log)) == [{"a": 1}, {"a": 2}]


def test_the_first_line_with_all_fields(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text('{"a": 1}\n{"a": 1, "b": 2, "n": 1}\n{"a": 1, "b": 2, "n": 2}\n')
    assert find(log, {"a": 1, "b": 2}) == {"a": 1, "b": 2, "n": 1}
    assert find(log, {"a": 1, "c": 2}) is None


def test_rows_are_the_named_fields_that_are_there() -> None:
    assert rows({"b": 2, "a": "x"}, "a", "absent", "b") == (("a", "x"), ("b", "2"))
