"""The defaults of keys, spelled as a file would write them: for the reference and for the JSON Schema."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from sidecar.config import outbound_token, sections
from sidecar.config.kinds import spell_duration, spell_size
from sidecar.config.schema import REQUIRED

if TYPE_CHECKING:
    from sidecar.config.schema import Key


class Unspelled(Enum):
    """A default that no file could write: there is none, it is computed, or it means "not there"."""

    NONE = "none"


NONE: Final = Unspelled.NONE


def spelled(key: Key[Any]) -> Any:
    """Returns the default of a key as the JSON value that a file would have, ``NONE`` where it could have none."""
    value = key.default
    if value is REQUIRED:
        return NONE
    if key is sections.ACCESS_LOG:
        return "stdout"
    if key is outbound_token.TOKEN_HEADER:
        return "Authorization: Bearer"
    if value and isinstance(value, tuple) and isinstance(value[0], str):
        return list(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, float):
        return spell_duration(value)
    if isinstance(value, int):
        return spell_size(value) if key.kind.says.startswith("size") else value
    return str(value) if isinstance(value, str) else NONE
