"""JSON that others wrote, read so that no two readers could see two things in it (RFC 8259, RFC 8725 3.7).

Python's parser keeps the last of two equal names, takes NaN for a number, makes infinity of 1e999, and lets half of a
surrogate pair into a string. Its errors hold all that they could not read, so none of them gets out of here, not even as
the context of another one: what is wrong is returned.
"""

from __future__ import annotations

import json
import math
from enum import Enum, auto
from typing import Any, NoReturn


class Defect(Enum):
    """What is wrong with a text."""

    NOT_JSON = auto()
    DUPLICATE_NAME = auto()
    NOT_AN_OBJECT = auto()


class _DuplicateError(ValueError):
    pass


def read_object(data: bytes) -> dict[str, Any] | Defect:
    """Returns the one JSON object that some UTF-8 is, or what is wrong with it; raises nothing."""
    try:
        text = data.decode()
        found = json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse, parse_float=_finite)
        # Half of a surrogate pair is a string to Python, and an error to whoever encodes it later.
        if "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()
    except _DuplicateError:
        return Defect.DUPLICATE_NAME
    except (ValueError, RecursionError):  # no UTF-8, no JSON, a number of 5000 digits; too deep
        return Defect.NOT_JSON
    return found if isinstance(found, dict) else Defect.NOT_AN_OBJECT


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _DuplicateError
    return found


def _finite(number: str) -> float:
    found = float(number)
    if not math.isfinite(found):
        raise ValueError("larger than any number here")
    return found


def _refuse(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")
