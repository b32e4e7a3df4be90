from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.identity.pattern import IdPattern, IdPatternCode, IdPatternError, Tail
from sidecar.identity.spiffe import SpiffeId, SpiffeIdCode, SpiffeIdError, TrustDomain

names = st.text("ab.-", min_size=1, max_size=3).filter(lambda s: s not in {".", ".."})
paths = st.lists(names, max_size=5).map(tuple)
domains = st.sampled_from(["td", "td.evil", "evil-td"]).map(TrustDomain)
tails = st.sampled_from(Tail)


def spiffe_id(domain: TrustDomain, segments: tuple[str, ...]) -> SpiffeId:
    return SpiffeId(domain, "".join(f"/{segment}" for segment in segments))


@pytest.mark.parametrize(
    ("text", "segments", "tail"),
    [
        ("spiffe://example.org/agent/planner/1", ("agent", "planner", "1"), Tail.EXACT),
        ("spiffe://example.org/agent/planner/*", ("agent", "planner"), Tail.ONE),
        ("spiffe://example.org/agent/**", ("agent",), Tail.MANY),
    ],
)
def test_parts(text: str, segments: tuple[str, ...], tail: Tail) -> None:
    pattern = IdPattern.parse(text)
    assert pattern == IdPattern(TrustDomain("example.org"), segments, tail)
    assert str(pattern) == text


@pytest.mark.parametrize(
    ("text", "matching", "others"),
    [
        ("spiffe://td/agent/a", ["/agent/a"], ["", "/agent", "/agent/ab", "/agent/a/1", "/agent/A", "/b/agent/a"]),
        ("spiffe://td/agent/*", ["/agent/a", "/agent/b"], ["", "/agent", "/agent/a/1", "/agents/a", "/b/agent/a"]),
        ("spiffe://td/agent/**", ["/agent/a", "/agent/a/1", "/agent/a/1/x"], ["", "/agent", "/agents/a", "/b/agent/a"]),
    ],
)
def test_matches(text: str, matching: list[str], others: list[str]) -> None:
    pattern = IdPattern.parse(text)
    assert [path for path in matching + others if pattern.matches(SpiffeId(TrustDomain("td"), path))] == matching


@pytest.mark.threat(7)
@pytest.mark.parametrize("tail", ["", "/*", "/**"])
@pytest.mark.parametrize(
    "caller",
    [
        "spiffe://td/agent/ab",
        "spiffe://td/agent/ab/1",
        "spiffe://td/agent/a.b/1",
        "spiffe://td/agent",
        "spiffe://td.evil/agent/a",
        "spiffe://td.evil/agent/a/1",
        "spiffe://evil-td/agent/a",
        "spiffe://evil-td/agent/a/1",
        "spiffe://td/evil/agent/a/1",
    ],
)
def test_threat_7_neighbour_of_a_pattern_does_not_match(tail: str, caller: str) -> None:
    assert not IdPattern.parse("spiffe://td/agent/a" + tail).matches(SpiffeId.parse(caller))


@given(domains, names, paths, tails, domains, paths)
def test_matching_is_by_whole_segments(
    domain: TrustDomain, first: str, rest: tuple[str, ...], tail: Tail, other: TrustDomain, path: tuple[str, ...]
) -> None:
    """A pattern matches exactly the IDs of its domain that extend its segments by as many as its tail says."""
    pattern = IdPattern(domain, (first, *rest), tail)
    extensions = {Tail.EXACT: range(1), Tail.ONE: range(1, 2), Tail.MANY: range(1, 100)}
    length = len(pattern.segments)
    expected = domain == other and path[:length] == pattern.segments and len(path) - length in extensions[tail]
    assert pattern.matches(spiffe_id(other, path)) is expected
    own = spiffe_id(domain, pattern.segments + path)
    assert pattern.matches(own) is (len(path) in extensions[tail])


@given(domains, names, paths, tails)
def test_pattern_is_written_back(domain: TrustDomain, first: str, rest: tuple[str, ...], tail: Tail) -> None:
    """parse(str(pattern)) == pattern."""
    pattern = IdPattern(domain, (first, *rest), tail)
    assert IdPattern.parse(str(pattern)) == pattern


@given(st.one_of(st.text(), st.text("spife:/td*.%A\n", max_size=20).map("spiffe://td/".__add__)))
def test_any_text_is_a_pattern_or_the_one_error(text: str) -> None:
    """Parsing yields a pattern that writes itself back, or SpiffeIdError, for any text at all."""
    found = outcome(text)
    if isinstance(found, SpiffeIdError):
        assert isinstance(found.code, SpiffeIdCode | IdPatternCode)
    else:
        assert str(found) == text


def outcome(text: str) -> IdPattern | SpiffeIdError:
    try:
        return IdPattern.parse(text)
    except SpiffeIdError as error:
        return error


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("spiffe://*", IdPatternCode.WILDCARD_TRUST_DOMAIN),
        ("spiffe://**", IdPatternCode.WILDCARD_TRUST_DOMAIN),
        ("spiffe://*/agent/a", IdPatternCode.WILDCARD_TRUST_DOMAIN),
        ("spiffe://*.example.org/agent/*", IdPatternCode.WILDCARD_TRUST_DOMAIN),
        ("spiffe://td/*", IdPatternCode.WILDCARD_WITHOUT_SEGMENT),
        ("spiffe://td/**", IdPatternCode.WILDCARD_WITHOUT_SEGMENT),
        ("spiffe://td/*/a", IdPatternCode.WILDCARD_NOT_LAST),
        ("spiffe://td/agent/*/1", IdPatternCode.WILDCARD_NOT_LAST),
        ("spiffe://td/agent/*/*", IdPatternCode.WILDCARD_NOT_LAST),
        ("spiffe://td/agent/**/*", IdPatternCode.WILDCARD_NOT_LAST),
        ("spiffe://td/agent/***", IdPatternCode.WILDCARD_NOT_LAST),
        ("spiffe://td/agent/*/", IdPatternCode.WILDCARD_NOT_LAST),
        ("spiffe://td/agent/a*", IdPatternCode.WILDCARD_PARTIAL),
        ("spiffe://td/agent/*\n", IdPatternCode.WILDCARD_PARTIAL),
        ("spiffe://td/agent/*a", IdPatternCode.WILDCARD_PARTIAL),
        ("spiffe://td/a*b/*", IdPatternCode.WILDCARD_PARTIAL),
        ("spiffe://td", IdPatternCode.NO_PATH),
    ],
)
def test_misplaced_wildcard_has_its_code(text: str, code: IdPatternCode) -> None:
    with pytest.raises(IdPatternError) as caught:
        IdPattern.parse(text)
    assert caught.value.code is code
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", SpiffeIdCode.EMPTY),
        ("*", SpiffeIdCode.WRONG_SCHEME),
        ("/*", SpiffeIdCode.EMPTY),
        ("example.org/agent/*", SpiffeIdCode.WRONG_SCHEME),
        ("SPIFFE://td/agent/*", SpiffeIdCode.WRONG_SCHEME),
        ("spiffe://td//*", SpiffeIdCode.TRAILING_SLASH),
        ("spiffe://td/agent/", SpiffeIdCode.TRAILING_SLASH),
        ("spiffe://td/agent/%2a", SpiffeIdCode.PERCENT_ENCODING),
        ("spiffe://td/agent/a\n", SpiffeIdCode.PATH_CHARACTER),
    ],
)
def test_literals_are_those_of_a_spiffe_id(text: str, code: SpiffeIdCode | IdPatternCode) -> None:
    with pytest.raises(SpiffeIdError) as caught:
        IdPattern.parse(text)
    assert caught.value.code is code


@pytest.mark.parametrize("segments", [("a/b",), ("*",), ("",), ("..",)])
def test_constructor_makes_no_invalid_value(segments: tuple[str, ...]) -> None:
    with pytest.raises(SpiffeIdError):
        IdPattern(TrustDomain("td"), segments)
