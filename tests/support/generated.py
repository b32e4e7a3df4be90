"""Files that are written from the tables of the configuration's keys: ``python -m tests.support.generated`` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.config import json_schema, reference

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT: Final = Path(__file__).parents[2]
#: What a test says when a file is not what the tables make of it.
ANEW: Final = "the keys have changed: write it anew with: .venv/bin/python -m tests.support.generated"

REFERENCE: Final = ROOT / "docs" / "configuration.md"
SCHEMA: Final = ROOT / "sidecar" / "config" / json_schema.FILE


def schema(_: str = "") -> str:
    """Returns the text of the JSON Schema."""
    return json.dumps(json_schema.document(), indent=2, ensure_ascii=False) + "\n"


#: Each file with what makes its text from the one it has.
FILES: Final[dict[Path, Callable[[str], str]]] = {REFERENCE: reference.written, SCHEMA: schema}


def main() -> None:
    for path, make in FILES.items():
        path.write_text(make(path.read_text(encoding="utf-8") if path.exists() else ""), encoding="utf-8")


if __name__ == "__main__":
    main()
