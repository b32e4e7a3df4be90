"""docs/threats.md and the tests say the same: each case on the page has a test that bears its number."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: The cases whose part exists in this version.
EXPECTED = {
    *range(1, 41),
    42,
    43,
    44,
    45,
    46,
    47,
    48,
    50,
    51,
    52,
    54,
    59,
    60,
    61,
}


def numbers_on_the_page() -> set[int]:
    return {int(n) for n in re.findall(r"^\| (\d+) \|", (ROOT / "docs/threats.md").read_text(), re.MULTILINE)}


def numbers_in_the_tests() -> set[int]:
    found: set[int] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.threat":
                found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}  # type: ignore[misc]
    return found


def test_the_page_has_every_case_whose_part_exists() -> None:
    assert numbers_on_the_page() == EXPECTED


def test_every_case_has_a_test() -> None:
    assert numbers_in_the_tests() >= EXPECTED
