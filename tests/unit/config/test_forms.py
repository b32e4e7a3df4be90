from __future__ import annotations

import re
from enum import StrEnum

from jsonschema import Draft202012Validator

from sidecar.config import forms


class Word(StrEnum):
    ONE = "one"
    TWO = "two"


def takes(form: forms.Form, value: object) -> bool:
    assert isinstance(form, dict)
    Draft202012Validator.check_schema(form)
    return bool(Draft202012Validator(form).is_valid(value))


def test_text_matches_as_a_whole() -> None:
    form = forms.matching(re.compile("a|b"))
    assert takes(form, "a")
    assert takes(form, "b")
    assert not takes(form, "ab")
    assert not takes(form, 1)


def test_a_beginning() -> None:
    form = forms.starting("http://", "tcp://")
    assert takes(form, "tcp://x")
    assert not takes(form, "xtcp://")
    assert not takes(form, "udp://x")


def test_one_word_of_several() -> None:
    assert takes(forms.one_of(Word), "two")
    assert not takes(forms.one_of(Word), "three")


def test_numbers_include_both_ends() -> None:
    form = forms.within(1, 3)
    assert [value for value in range(5) if takes(form, value)] == [1, 2, 3]
    assert not takes(form, "2")
    assert not takes(form, 1.5)


def test_a_mapping_has_a_key() -> None:
    form = forms.mapping(forms.matching("[a-z]"), forms.WHOLE)
    assert takes(form, {"a": 1})
    assert not takes(form, {})
    assert not takes(form, {"A": 1})
    assert not takes(form, {"a": "1"})


def test_anything() -> None:
    assert takes(forms.ANY, None)
    assert takes(forms.FLAG, True)
    assert not takes(forms.FLAG, "true")
    assert not takes(forms.TEXT, 1)
