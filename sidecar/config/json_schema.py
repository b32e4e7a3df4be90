"""The JSON Schema of the format, made from the tables that parse it: `configuration.schema.json` beside this file.

It says of each key what can be said of it alone, for editors and other tools that see YAML as JSON. It never refuses a
file that the parser takes, as long as text that YAML takes for something else (``name: 7``) is in quotes.
"""

from __future__ import annotations

import importlib
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from sidecar.config.defaults import NONE, spelled
from sidecar.config.forms import Elsewhere, ListOf
from sidecar.config.schema import REQUIRED, Table
from sidecar.config.sections import TOP

if TYPE_CHECKING:
    from sidecar.config.forms import Form
    from sidecar.config.schema import Key

FILE: Final = "configuration.schema.json"

_ABOUT: Final = (
    "The configuration of one sidecar, as YAML. This schema says how the value of each key looks by itself; what keys say of "
    "each other, durations and sizes out of bounds, the finer rules of addresses, names, URLs and paths, and the files that "
    "are named are found by: sidecar check FILE. Quote text that YAML takes for a number or for true and false."
)


def shipped() -> str:
    """Returns the schema as it is shipped with the package: JSON text."""
    return resources.files("sidecar.config").joinpath(FILE).read_text(encoding="utf-8")


def document() -> dict[str, Any]:
    """Returns the schema, made anew from the tables."""
    sections: dict[str, dict[str, Any]] = {}
    top = _section(TOP, sections)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sidecar configuration",
        "description": _ABOUT,
        **top,
        "$defs": sections,
    }


def _section(table: Table, sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns a section's own schema; those of the sections within it are put into ``sections``."""
    return {
        "type": "object",
        "required": [key.name for key in table.keys if key.default is REQUIRED],
        "additionalProperties": False,
        "properties": {key.name: _property(key, sections) for key in table.keys},
        **table.rules,
    }


def _property(key: Key[Any], sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    default = spelled(key)
    return {
        "description": f"{key.doc} ({key.kind.says})",
        **({} if default is NONE else {"default": default}),
        **_fragment(key.kind.form, sections),
    }


def _fragment(form: Form, sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if isinstance(form, Elsewhere):
        return _fragment(getattr(importlib.import_module(form.module), form.name).form, sections)
    if isinstance(form, ListOf):
        return {
            "type": "array",
            "items": _fragment(form.kind.form, sections),
            **({"minItems": form.least} if form.least else {}),
            **({"uniqueItems": True} if form.distinct else {}),
        }
    if isinstance(form, Table):
        if form.name not in sections:
            sections[form.name] = {}  # its place, before those of the sections within it
            sections[form.name] = _section(form, sections)
        return {"$ref": f"#/$defs/{form.name}"}
    if isinstance(form, tuple):
        return {"oneOf": [_fragment(table, sections) for table in form]}
    return dict(form)
