"""The shipped JSON Schema, asked by somebody else's validator what it thinks of a file."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from sidecar.config.json_schema import shipped


class _Core(yaml.SafeLoader):
    """Reads plain scalars as editors do, by the core schema of YAML 1.2 (10.3.2), not as YAML 1.1 does."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Core.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


@functools.cache
def _validator() -> Draft202012Validator:
    schema = json.loads(shipped())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def complaints(text: str | bytes) -> list[str]:
    """Returns what the schema finds wrong with a file, each with its place."""
    document = yaml.load(text, Loader=_Core)  # noqa: S506 - a safe loader
    return [f"{error.json_path}: {error.message[:200]}" for error in _validator().iter_errors(document)]
