from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bench.errors import UsageError
from bench.page import write_page
from bench.processes import ROOT
from bench.result import Result
from tests.support.bench import HTTP, LOG, result

if TYPE_CHECKING:
    from pathlib import Path

MADE = result(HTTP, LOG, http={"sidecar": [90.0], "envoy": [100.0]}, log__on={"sidecar": [90.0]})


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "last.json").write_text(json.dumps(MADE.as_json()))
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    return path


def test_the_result_goes_between_the_marks(page: Path) -> None:
    write_page(page.parent / "last.json", page)
    text = page.read_text()
    assert text.startswith("before\n<!-- results -->\n* 2026-01-02 03:04 UTC, `python -m bench`: 3 x 3 s a cell\n")
    assert text.endswith("<!-- /results -->\nafter\n")
    assert "old" not in text
    assert "| HTTP request | 90.0 µs CPU | ≤ 1 x envoy: yes, 10% below |" in text
    assert "Abacus & Sons <II>" in text
    assert "nginx/1.22.1" in text


def test_writing_twice_changes_nothing(page: Path) -> None:
    write_page(page.parent / "last.json", page)
    once = page.read_text()
    write_page(page.parent / "results/result.json", page)
    assert page.read_text() == once


def test_chart_and_figures_lie_beside_the_page(page: Path) -> None:
    write_page(page.parent / "last.json", page)
    assert Result.read(page.parent / "results/result.json") == MADE
    assert (page.parent / "results/chart.svg").read_text().startswith("<svg ")


def test_a_page_without_marks_is_refused_and_left_alone(page: Path) -> None:
    page.write_text("no place")
    with pytest.raises(UsageError, match="has no <!-- results -->"):
        write_page(page.parent / "last.json", page)
    assert page.read_text() == "no place"


def test_the_projects_own_page_has_the_marks() -> None:
    text = (ROOT / "bench/README.md").read_text()
    assert text.index("<!-- results -->") < text.index("<!-- /results -->")
