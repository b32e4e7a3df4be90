"""Many path patterns as one look-up whose cost does not depend on how many there are.

A tree over segments, walked with the set of places where some pattern still fits (a nondeterministic automaton run
breadth first): a path is read once, nothing is ever tried again, so no pattern can make matching explode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: One whole segment, never an empty one.
ONE = b"*"
#: Zero or more whole segments; an empty last one (a trailing slash) counts.
DEEP = b"**"

T = TypeVar("T")


class _Place(Generic[T]):
    """What may follow a matched beginning. ``deep`` repeats itself and is never directly below another ``deep``."""

    __slots__ = ("children", "deep", "one", "repeats", "value")

    def __init__(self, *, repeats: bool = False) -> None:
        self.children: dict[bytes, _Place[T]] = {}
        self.one: _Place[T] | None = None
        self.deep: _Place[T] | None = None
        self.repeats = repeats
        self.value: T | None = None

    @property
    def ends(self) -> bool:
        """Whether nothing can follow."""
        return not self.children and self.one is None


class PathTree(Generic[T]):
    """Values found by path. Patterns come as their segments; a value is made once for each distinct pattern."""

    __slots__ = ("_literal", "_root", "_wild")

    def __init__(self) -> None:
        self._literal: dict[bytes, T] = {}
        self._root: _Place[T] = _Place()
        self._wild = False

    def slot(self, segments: Iterable[bytes], make: Callable[[], T]) -> T:
        """Returns the value of a pattern, made by ``make`` when the pattern is new."""
        segments = tuple(segments)
        if ONE not in segments and DEEP not in segments:
            path = b"/" + b"/".join(segments)
            if path not in self._literal:
                self._literal[path] = make()
            return self._literal[path]
        self._wild = True
        place = self._root
        for segment in segments:
            place = self._below(place, segment)
        if place.value is None:
            place.value = make()
        return place.value

    def find(self, path: bytes) -> list[T]:
        """Returns the values of all patterns that match a path that begins with ``/``; none for any other path."""
        literal = self._literal.get(path)
        found = [] if literal is None else [literal]
        if self._wild and path.startswith(b"/"):
            found += self._walk(path)
        return found

    @staticmethod
    def _below(place: _Place[T], segment: bytes) -> _Place[T]:
        if segment == ONE:
            if place.one is None:
                place.one = _Place()
            return place.one
        if segment == DEEP:
            if place.deep is None:
                place.deep = _Place(repeats=True)
            return place.deep
        return place.children.setdefault(segment, _Place())

    def _walk(self, path: bytes) -> list[T]:
        found: list[T] = []
        # Dictionaries serve as sets that keep their order: the same path always gives the same list.
        places: dict[_Place[T], None] = {}
        self._enter(self._root, places, found)
        for segment in path[1:].split(b"/"):
            following: dict[_Place[T], None] = {}
            for place in places:
                if place.repeats:
                    following[place] = None
                if (child := place.children.get(segment)) is not None:
                    self._enter(child, following, found)
                if place.one is not None and segment:
                    self._enter(place.one, following, found)
            places = following
            if not places:
                return found
        found += [place.value for place in places if place.value is not None]
        return found

    @staticmethod
    def _enter(place: _Place[T], places: dict[_Place[T], None], found: list[T]) -> None:
        """Adds a place, and the one that "zero segments" reaches from there."""
        places[place] = None
        deep = place.deep
        if deep is None or deep in places:
            return
        if deep.ends:
            # The pattern ends in "**": whatever follows, it matches. No need to carry it along.
            if deep.value is not None and not any(deep.value is value for value in found):
                found.append(deep.value)
        else:
            places[deep] = None
