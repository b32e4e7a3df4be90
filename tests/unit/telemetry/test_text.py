from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.telemetry.text import TEXT_LIMIT, quoted


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=TEXT_LIMIT // 4))
def test_text_round_trips(text: str) -> None:
    """JSON gives back the very text, also when it came as UTF-8 bytes."""
    assert json.loads(quoted(text)) == text
    assert json.loads(quoted(text.encode())) == text


@given(st.binary() | st.text())
def test_anything_becomes_printable_ascii(text: str | bytes) -> None:
    """The result is JSON, printable ASCII, and never longer than its bound allows."""
    shown = quoted(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert isinstance(json.loads(shown), str)
    assert len(shown) <= 6 * TEXT_LIMIT + 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"\xff/a", "\\xff/a"),
        (b"caf\xc3\xa9", "café"),
        ("\udcff", "\\udcff"),
        ("\u2028", "\u2028"),
        (b"\x1b[31m\r\n\0", "\x1b[31m\r\n\0"),
        (b'"\\', '"\\'),
    ],
)
def test_odd_text_is_escaped(text: str | bytes, expected: str) -> None:
    assert json.loads(quoted(text)) == expected


def test_a_text_at_the_limit_is_whole_and_one_more_is_cut_and_marked() -> None:
    assert json.loads(quoted("a" * TEXT_LIMIT)) == "a" * TEXT_LIMIT
    assert json.loads(quoted("a" * (TEXT_LIMIT + 3))) == "a" * TEXT_LIMIT + "…(+3 characters)"
    assert json.loads(quoted(b"a" * (TEXT_LIMIT + 3))) == "a" * TEXT_LIMIT + "…(+3 bytes)"


def test_a_character_that_is_cut_in_two_is_shown_as_its_bytes() -> None:
    assert json.loads(quoted(b"a" * (TEXT_LIMIT - 1) + "é".encode())).endswith("a\\xc3…(+1 bytes)")
