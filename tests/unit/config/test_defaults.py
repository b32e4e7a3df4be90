from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest

from sidecar.config import kinds, limits, outbound_token, sections
from sidecar.config.defaults import NONE, spelled
from sidecar.config.schema import REQUIRED, Key, Kind, listing


class Word(StrEnum):
    ONE = "one"


SIZE, WAIT = kinds.size("1B", "1GiB"), kinds.duration("1ms", "1h")


@pytest.mark.parametrize(
    ("kind", "default", "spelling"),
    [
        (kinds.NAME, REQUIRED, NONE),
        (kinds.NAME, None, NONE),
        (kinds.NAME, "a", "a"),
        (kinds.FLAG, False, False),
        (kinds.number(0, 9), 0, 0),
        (SIZE, 65536, "64KiB"),
        (WAIT, 0.5, "500ms"),
        (kinds.choice(Word), Word.ONE, "one"),
        (listing(kinds.NAME), (), NONE),
        (listing(kinds.NAME), ("a", "b"), ["a", "b"]),
    ],
)
def test_a_default_is_spelled_as_a_file_would(kind: Kind[Any], default: Any, spelling: object) -> None:
    found = spelled(Key("key", kind, default, ""))
    assert found == spelling
    assert type(found) is type(spelling)


def test_defaults_that_are_no_values_of_the_file() -> None:
    assert spelled(sections.ACCESS_LOG) == "stdout"
    assert spelled(outbound_token.TOKEN_HEADER) == "Authorization: Bearer"
    assert spelled(sections.LIMITS_KEY) is NONE
    assert spelled(limits.HEAD_BYTES) == "64KiB"
