from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.identity.strict_json import Defect, read_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("text", "defect"),
    [
        (b"", Defect.NOT_JSON),
        (b"{", Defect.NOT_JSON),
        (b"{} {}", Defect.NOT_JSON),
        (b"\xef\xbb\xbf{}", Defect.NOT_JSON),
        (b"\xff", Defect.NOT_JSON),
        ("{}".encode("utf-16"), Defect.NOT_JSON),
        (b'{"a": NaN}', Defect.NOT_JSON),
        (b'{"a": -Infinity}', Defect.NOT_JSON),
        (b'{"a": 1e999}', Defect.NOT_JSON),
        (b'{"a": ' + b"1" * 5000 + b"}", Defect.NOT_JSON),
        (b'{"a": "\\ud800"}', Defect.NOT_JSON),
        (b'{"\\udfff": 1}', Defect.NOT_JSON),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", Defect.NOT_JSON),
        (b'{"a": 1, "a": 1}', Defect.DUPLICATE_NAME),
        (b'{"b": [{"a": 1, "\\u0061": 2}]}', Defect.DUPLICATE_NAME),
        (b"[]", Defect.NOT_AN_OBJECT),
        (b'"text"', Defect.NOT_AN_OBJECT),
        (b"null", Defect.NOT_AN_OBJECT),
    ],
)
def test_what_is_no_object_for_every_reader(text: bytes, defect: Defect) -> None:
    assert read_object(text) is defect


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), VALUES), st.booleans())
def test_what_was_written_is_read(value: dict[str, object], escaped: bool) -> None:
    """Invariant: whatever JSON was written from an object with distinct names, the object is what is read."""
    assert read_object(json.dumps(value, ensure_ascii=escaped).encode()) == value


@given(st.binary(max_size=40))
def test_nothing_is_raised(data: bytes) -> None:
    """Invariant: whatever the bytes, an object or a defect is returned."""
    assert isinstance(read_object(data), dict | Defect)
