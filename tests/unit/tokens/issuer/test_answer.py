"""An issuer's JSON, read strictly, and nothing of it anywhere but in the result."""

from __future__ import annotations

import json
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.issuer.answer import Answer

SECRET = "hush-hush-token"


def answer(body: bytes) -> Answer:
    return Answer(200, "application/json", body)


def test_an_object_is_returned() -> None:
    body = '{"a": [1, 2.5, null, true, {"b": "\\u00fc\\ud83d\\ude00ü"}], "c": {}}'
    assert answer(body.encode()).json() == {"a": [1, 2.5, None, True, {"b": "ü\U0001f600ü"}], "c": {}}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"<html>hush-hush-token</html>",
        b'"hush-hush-token"',
        b'["hush-hush-token"]',
        b"null",
        b"17",
        b'{"token": "hush-hush-token"',
        b'{"token": "hush-hush-token"} {}',
        b'{"token": "hush-hush-token",}',
        b"{'token': 'hush-hush-token'}",
        b'{"token": "hush-hush-token", "token": 1}',
        b'{"a": {"token": "hush-hush-token", "token": 1}}',
        b'{"a": [{"token": "hush-hush-token", "t\\u006fken": 1}]}',
        b'{"token": "hush-hush-token", "a": NaN}',
        b'{"token": "hush-hush-token", "a": -Infinity}',
        b'{"token": "hush-hush-token", "a": 1e999}',
        b'{"token": "hush-hush-token", "a": ' + b"9" * 5000 + b"}",
        b'{"token": "hush-hush-token\xff"}',
        b'{"token": "hush-hush-token\xed\xa0\x80"}',
        b'{"token": "hush-hush-token\\ud800"}',
        b'{"\\udc00": "hush-hush-token"}',
        b'{"token": "hush-hush-token\n"}',
        b'\xef\xbb\xbf{"token": "hush-hush-token"}',
        '{"token": "hush-hush-token"}'.encode("utf-16"),
        b'{"a":' * 100_000,
        b"[" * 200_000,
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_anything_else_is_a_bad_answer_and_quoted_nowhere(body: bytes) -> None:
    with pytest.raises(SourceError) as caught:
        answer(body).json()
    error = caught.value
    assert error.code is SourceCode.BAD_ANSWER
    assert error.__cause__ is error.__context__ is None
    assert SECRET not in "".join(traceback.format_exception(error)) + error.hint


def test_a_body_shows_in_no_repr() -> None:
    assert SECRET not in repr(answer(f'{{"token": "{SECRET}"}}'.encode()))


@given(
    st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()), max_size=4)
)
def test_what_any_writer_of_json_wrote_is_read_as_it_was(found: dict[str, object]) -> None:
    """For any object without floats: what `json` writes of it, escaped or not, reads as the same object."""
    assert answer(json.dumps(found).encode()).json() == found
    assert answer(json.dumps(found, ensure_ascii=False).encode()).json() == found


@given(st.binary())
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    """For any bytes: an object is returned, or BAD_ANSWER is raised."""
    found: object = {}
    code = SourceCode.BAD_ANSWER
    try:
        found = answer(body).json()
    except SourceError as error:
        code = error.code
    assert code is SourceCode.BAD_ANSWER
    assert isinstance(found, dict)
