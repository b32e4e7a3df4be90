"""Files of JSON lines: access logs, and what the demo's own programs report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sidecar.demo.processes import Process

Line = dict[str, Any]


def lines(path: Path) -> Iterator[Line]:
    """Every whole line of the file so far, the oldest first; none if there is no file yet."""
    if not path.exists():
        return
    for text in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if text.endswith("\n"):
            yield json.loads(text)


def find(path: Path, wanted: Mapping[str, object]) -> Line | None:
    """The first line with all of these fields."""
    return next((line for line in lines(path) if wanted.items() <= line.items()), None)


def await_line(writer: Process, path: Path, wanted: Mapping[str, object]) -> Line:
    """The same, as soon as ``writer`` has written it; raises UnexpectedError if it does not."""
    found: list[Line] = []

    def look() -> bool:
        line = find(path, wanted)
        if line is not None:
            found.append(line)
        return line is not None

    fields = ", ".join(f"{name}={value}" for name, value in wanted.items())
    writer.until(look, f"a line with {fields} in {path.name}")
    return found[0]


def rows(line: Line, *names: str) -> tuple[tuple[str, str], ...]:
    """The named fields of a line, as rows of evidence; absent ones are left out."""
    return tuple((name, str(line[name])) for name in names if name in line)
