"""What values look like before anybody reads them: the part of a kind that a JSON Schema (draft 2020-12) can say.

A form is data; `sidecar.config.json_schema` makes the schema of it. Whatever a form leaves open, the parser decides: a
form may take what the parser refuses, never the reverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Union

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable, Mapping

    from sidecar.config.schema import Kind, Table

#: The keywords of a JSON Schema about one value.
Fragment: TypeAlias = "Mapping[str, Any]"


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of values of one kind."""

    kind: Kind[Any]
    least: int = 0
    distinct: bool = True


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The form of the kind of that name, in a module that is loaded when a file has its key."""

    module: str
    name: str


#: A fragment; a section; a section that has one of several tables; a list; what another module says.
Form: TypeAlias = Union["Fragment", "Table", "tuple[Table, ...]", ListOf, Elsewhere]

ANY: Final[Fragment] = {}
TEXT: Final[Fragment] = {"type": "string"}
WHOLE: Final[Fragment] = {"type": "integer"}
FLAG: Final[Fragment] = {"type": "boolean"}


def matching(pattern: re.Pattern[str] | str) -> Fragment:
    """Returns the form of text that matches a pattern as a whole. ECMA-262 has to read it as Python does."""
    return {"type": "string", "pattern": f"^(?:{pattern if isinstance(pattern, str) else pattern.pattern})$"}


def starting(*beginnings: str) -> Fragment:
    """Returns the form of text with one of these beginnings, in letters and digits, ``:`` and ``/``."""
    return {"type": "string", "pattern": f"^(?:{'|'.join(beginnings)})"}


def one_of(options: Iterable[str]) -> Fragment:
    """Returns the form of one word of several."""
    return {"enum": [str(option) for option in options]}


def within(low: int, high: int) -> Fragment:
    """Returns the form of a whole number between two, both included."""
    return {"type": "integer", "minimum": low, "maximum": high}


def mapping(names: Fragment, value: Fragment) -> Fragment:
    """Returns the form of a mapping with at least one key, all names and all values alike."""
    return {"type": "object", "minProperties": 1, "propertyNames": names, "additionalProperties": value}
