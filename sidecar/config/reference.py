"""The reference of the format, written from the tables that parse it: `docs/configuration.md` holds what this returns."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from sidecar.config import limits
from sidecar.config.defaults import NONE, spelled
from sidecar.config.schema import REQUIRED
from sidecar.config.tables import TABLES
from sidecar.config.unserved import NOT_SERVED

if TYPE_CHECKING:
    from sidecar.config.schema import Key, Table

#: What to write for a default that is computed, or that means "not there": the text of the key says which.
_ABSENT: Final = "optional"

_KEYS: Final = re.compile(r"(<!-- keys: ([\w.-]+) -->)\n(?:.*\n)*?(<!-- /keys -->)")
_NOT_SERVED: Final = re.compile(r"(<!-- not served -->)\n(?:.*\n)*?(<!-- /not served -->)")


def key_table(table: Table) -> str:
    """Returns one section's keys as a Markdown table."""
    lines = ["| key | value | default | |", "| --- | --- | --- | --- |"]
    lines += [f"| `{key.name}` | {_cell(key.kind.says)} | {_default(key)} | {_cell(key.doc)} |" for key in table.keys]
    return "\n".join(lines)


def key_tables() -> dict[str, str]:
    """Returns the table of each section by its name."""
    return {table.name: key_table(table) for table in TABLES}


def _default(key: Key[Any]) -> str:
    if key.default is REQUIRED:
        return "required"
    value = spelled(key)
    if value is NONE:
        return "see below" if key.default is limits.DEFAULTS else _ABSENT
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`[{', '.join(value)}]`" if isinstance(value, list) else f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def not_served_list() -> str:
    """Returns what the format knows and this version does not serve, as a Markdown list."""
    return "\n".join(f"- {feature}" for feature in dict.fromkeys(NOT_SERVED.values()))


def written(document: str) -> str:
    """Returns a document with everything between its marks written anew: ``<!-- keys: SECTION -->``, ``<!-- not served -->``.

    Raises KeyError for a section that does not exist.
    """
    tables = key_tables()
    document = _KEYS.sub(lambda mark: f"{mark[1]}\n{tables[mark[2]]}\n{mark[3]}", document)
    return _NOT_SERVED.sub(lambda mark: f"{mark[1]}\n{not_served_list()}\n{mark[2]}", document)
