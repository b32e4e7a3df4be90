"""A page of the documentation, taken apart: its blocks of commands and files, and where its links lead.

Commands that cannot be run have ``<!-- not run: needs … -->`` before their block.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_FENCE = re.compile(r"(?P<mark><!--.*?-->\n)?```(?P<language>\w*)\n(?P<text>.*?)```\n", re.DOTALL)
_MARK = re.compile(r"<!-- not run: needs [^\n]+ -->\n")


class Block(NamedTuple):
    """``section``: the heading of the second level that it stands under. ``marked``: it is not run."""

    section: str
    language: str
    text: str
    marked: bool

    @property
    def commands(self) -> list[str]:
        """One a line, however they are broken."""
        return [re.sub(r"\s*\\\n\s*", " ", line) for line in re.split(r"(?<!\\)\n", self.text.strip())]


def blocks_of(page: str) -> list[Block]:
    """All of them, in order; a mark of another form, or one before something else than commands, fails here."""
    found = []
    for section in re.split(r"^## ", page, flags=re.MULTILINE):
        for match in _FENCE.finditer(section):
            mark = match["mark"] or ""
            assert not mark or _MARK.fullmatch(mark), f"a mark of another form: {mark}"
            assert not mark or match["language"] == "sh", "only commands are marked"
            found.append(Block(section.splitlines()[0], match["language"], match["text"], bool(mark)))
    assert page.count("\n```") == 2 * len(found), "a block that is not found"
    assert page.count("<!--") == sum(block.marked for block in found), "a mark without a block"
    return found


def slugs(page: str) -> set[str]:
    """What a link may name after ``#``."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links_of(page: str) -> list[tuple[str, str]]:
    """(file, heading's slug) of each link within the documentation; the file is empty for the page itself."""
    return re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page)
