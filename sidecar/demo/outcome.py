"""A step of the story as data: what is sent, what should happen, and how to find out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.demo.stage import Stage


@dataclass(frozen=True, slots=True)
class Section:
    """Evidence: a heading, and rows of label and value."""

    heading: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened, as it should: one line for the table, and the evidence."""

    happened: str
    evidence: tuple[Section, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One step. ``name`` and ``expected`` go into the table; ``run`` returns an Outcome or raises UnexpectedError."""

    name: str
    title: str
    sends: str
    expected: str
    run: Callable[[Stage], Outcome]


class UnexpectedError(Exception):
    """A step did not behave. The text is one line; ``detail`` is what a process or a log said about it."""

    def __init__(self, happened: str, detail: str = "") -> None:
        super().__init__(happened)
        self.detail = detail


def expect(condition: object, otherwise: str, detail: object = "") -> None:
    """Raises UnexpectedError unless the condition holds."""
    if not condition:
        raise UnexpectedError(otherwise, str(detail))


def parts(value: str) -> str:
    """An ``x-forwarded-client-cert`` value as people can read it: a part a line."""
    return value.replace(";", ";\n")


def fields(body: dict[str, str]) -> str:
    """A JSON object of one level, as people can read it."""
    return "\n".join(f"{name}: {value}" for name, value in body.items())
