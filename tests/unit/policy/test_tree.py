from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.policy.tree import DEEP, ONE, PathTree

SEGMENTS = st.sampled_from([b"a", b"b", b"ab", b""])
PATHS = st.lists(SEGMENTS, min_size=1, max_size=7).map(lambda segments: b"/" + b"/".join(segments))


@st.composite
def patterns(draw: st.DrawFn) -> tuple[bytes, ...]:
    drawn = draw(st.lists(st.sampled_from([b"a", b"b", b"ab", ONE, DEEP]), min_size=1, max_size=6))
    segments = [segment for i, segment in enumerate(drawn) if i == 0 or not segment == drawn[i - 1] == DEEP]
    return (*segments, b"") if draw(st.booleans()) else tuple(segments)


def reference(segments: tuple[bytes, ...]) -> re.Pattern[bytes]:
    parts = {ONE: rb"/[^/]+", DEEP: rb"(?:/[^/]*)*"}
    return re.compile(b"".join(parts.get(segment, b"/" + re.escape(segment)) for segment in segments))


@given(st.lists(patterns(), max_size=8, unique=True), PATHS)
@example([(DEEP, b"a", DEEP, b"a")], b"/a/b/a/a")
@example([(DEEP, b"a", DEEP), (DEEP,)], b"/a/a/a")
@example([(b"a", DEEP, b"b", DEEP)], b"/a/b/a/b")
def test_finds_what_a_regular_expression_for_each_pattern_finds(many: list[tuple[bytes, ...]], path: bytes) -> None:
    """The tree finds exactly the patterns whose regular expression matches the path, each once."""
    tree: PathTree[list[tuple[bytes, ...]]] = PathTree()
    for pattern in many:
        tree.slot(pattern, list).append(pattern)
    found = [pattern for value in tree.find(path) for pattern in value]
    assert sorted(found) == sorted(pattern for pattern in many if reference(pattern).fullmatch(path))


def test_a_pattern_has_one_value() -> None:
    tree: PathTree[list[int]] = PathTree()
    for segments in ((b"a",), (b"a", DEEP), (b"a", DEEP, b"b")):
        assert tree.slot(segments, list) is tree.slot(segments, list)


@pytest.mark.parametrize("path", [b"", b"*", b"a/b", b"host:443"])
def test_what_is_no_path_matches_nothing(path: bytes) -> None:
    tree: PathTree[bool] = PathTree()
    tree.slot((DEEP,), lambda: True)
    assert tree.find(path) == []


def test_a_path_is_walked_once_however_many_wildcards_there_are() -> None:
    tree: PathTree[bool] = PathTree()
    for last in (b"x", b"y", b"z"):
        tree.slot((DEEP, b"a") * 4 + (last,), lambda: True)
    looked_at = 0

    class Counted(bytes):
        __slots__ = ()

        def __hash__(self) -> int:
            nonlocal looked_at
            looked_at += 1
            return super().__hash__()

    class Path(bytes):
        __slots__ = ()

        def __getitem__(self, key: slice) -> Path:  # type: ignore[override] - the tree takes one slice
            return Path(super().__getitem__(key))

        def split(self, sep: bytes | None = None, maxsplit: int = -1) -> list[bytes]:  # type: ignore[override] - idem
            return [Counted(segment) for segment in super().split(sep, maxsplit)]

    assert tree.find(Path(b"/a" * 500)) == []
    # Every place of the tree looks at each segment once at most: 3 * (8 + 1) places, 500 segments.
    assert 500 <= looked_at <= 27 * 500
