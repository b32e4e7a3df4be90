from __future__ import annotations

import json

import pytest

from bench.figures import Cell, written


def test_a_cell_is_its_median_and_spread() -> None:
    cell = Cell([3.0, 1.0, 2.0, 10.0])
    assert (cell.median, cell.low, cell.high, cell.measured) == (2.5, 1.0, 10.0, True)


@pytest.mark.parametrize("cell", [Cell(), Cell([1.0], trouble="errors under load"), Cell(missing="not installed")])
def test_a_cell_with_a_failed_round_counts_for_nothing(cell: Cell) -> None:
    assert not cell.measured


@pytest.mark.parametrize(
    "cell",
    [
        Cell(),
        Cell([1.0, 2.0], [{"requests/s": 5.0}, {}]),
        Cell([1.0], [{}], trouble="errors under load (in round 2)"),
        Cell(missing="haproxy is not installed"),
    ],
)
def test_a_cell_comes_back_from_json(cell: Cell) -> None:
    assert Cell.from_json(json.loads(json.dumps(cell.as_json()))) == cell


def test_json_spells_out_median_and_spread() -> None:
    assert Cell([1.0, 3.0]).as_json() == {"rounds": [1.0, 3.0], "notes": [], "median": 2.0, "min": 1.0, "max": 3.0}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0538, "0.054"),
        (0.9994, "0.999"),
        (0.9996, "1.00"),
        (1.234, "1.23"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (45.16, "45.2"),
        (99.96, "100"),
        (135.4, "135"),
        (24946.0, "24946"),
    ],
)
def test_numbers_have_three_digits_that_count(value: float, text: str) -> None:
    assert written(value) == text
