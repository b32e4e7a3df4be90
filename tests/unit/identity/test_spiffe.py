from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Fault
from sidecar.identity.spiffe import (
    MAX_ID_BYTES,
    MAX_TRUST_DOMAIN_BYTES,
    SpiffeId,
    SpiffeIdCode,
    SpiffeIdError,
    TrustDomain,
    shown,
)

TRUST_DOMAIN_CHARACTERS = string.ascii_lowercase + string.digits + "._-"
SEGMENT_CHARACTERS = string.ascii_letters + string.digits + "._-"

trust_domains = st.text(TRUST_DOMAIN_CHARACTERS, min_size=1, max_size=40)
segments = st.text(SEGMENT_CHARACTERS, min_size=1, max_size=20).filter(lambda s: s not in {".", ".."})
paths = st.lists(segments, max_size=5).map(lambda parts: "".join(f"/{part}" for part in parts))
valid_texts = st.builds("spiffe://{}{}".format, trust_domains, paths)

# Texts near a SPIFFE ID: its own characters and those that other parsers forgive.
near_texts = st.builds(
    "{}{}{}".format,
    st.sampled_from(["spiffe://", "SPIFFE://", "spiffe:/", "spiffe:///", "\u017fpiffe://", " spiffe://", ""]),
    st.text("ab.-_A%@:?#/\n\0 \u017f\u0661\ud800", max_size=12),
    st.sampled_from(["", "/", "/a", "/a/", "/./a", "//a", "/%61", "/a\n", "?q", "#f", "/a*"]),
)


@given(valid_texts)
def test_valid_text_is_parsed_and_written_back(text: str) -> None:
    """Whatever the specification's grammar makes is accepted, and str(parse(x)) == x."""
    assert str(SpiffeId.parse(text)) == text


@given(st.one_of(near_texts, valid_texts, st.text()))
def test_any_text_is_a_valid_value_or_the_one_error(text: str) -> None:
    """Parsing yields a value that writes itself back and keeps the grammar, or SpiffeIdError, for any text at all."""
    found = outcome(text)
    if isinstance(found, SpiffeIdError):
        assert isinstance(found.code, SpiffeIdCode)
        assert str(found).isascii()
        assert str(found).isprintable()
        return
    assert str(found) == text
    assert text.isascii()
    assert set(found.trust_domain.name) <= set(TRUST_DOMAIN_CHARACTERS)
    for segment in found.segments:
        assert segment not in {"", ".", ".."}
        assert set(segment) <= set(SEGMENT_CHARACTERS)


def outcome(text: str) -> SpiffeId | SpiffeIdError:
    try:
        return SpiffeId.parse(text)
    except SpiffeIdError as error:
        return error


@pytest.mark.parametrize(
    ("text", "trust_domain", "segments"),
    [
        ("spiffe://example.org", "example.org", ()),
        ("spiffe://example.org/agent/planner/1", "example.org", ("agent", "planner", "1")),
        (
            "spiffe://example.org/ns/default/sa/Web-Front_end.v2",
            "example.org",
            ("ns", "default", "sa", "Web-Front_end.v2"),
        ),
        ("spiffe://10.0.0.1/a", "10.0.0.1", ("a",)),
        ("spiffe://trust_domain-1/...", "trust_domain-1", ("...",)),
        ("spiffe://a/.b", "a", (".b",)),
    ],
)
def test_parts(text: str, trust_domain: str, segments: tuple[str, ...]) -> None:
    spiffe_id = SpiffeId.parse(text)
    assert (str(spiffe_id.trust_domain), spiffe_id.segments) == (trust_domain, segments)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", SpiffeIdCode.EMPTY),
        ("spiffe://a/" + "b" * (MAX_ID_BYTES - 10), SpiffeIdCode.TOO_LONG),
        ("spiffe", SpiffeIdCode.WRONG_SCHEME),
        ("https://example.org/a", SpiffeIdCode.WRONG_SCHEME),
        ("spiffe:/example.org/a", SpiffeIdCode.WRONG_SCHEME),
        (" spiffe://example.org/a", SpiffeIdCode.WRONG_SCHEME),
        ("spiffe://", SpiffeIdCode.NO_TRUST_DOMAIN),
        ("spiffe:///a", SpiffeIdCode.NO_TRUST_DOMAIN),
        ("spiffe://" + "a" * (MAX_TRUST_DOMAIN_BYTES + 1) + "/a", SpiffeIdCode.TRUST_DOMAIN_TOO_LONG),
        ("spiffe://exa mple.org/a", SpiffeIdCode.TRUST_DOMAIN_CHARACTER),
        ("spiffe://[::1]/a", SpiffeIdCode.PORT),
        ("spiffe://example.org /a", SpiffeIdCode.TRUST_DOMAIN_CHARACTER),
        ("spiffe://ex\u00e4mple.org/a", SpiffeIdCode.TRUST_DOMAIN_CHARACTER),
        ("spiffe://example.org\\a", SpiffeIdCode.TRUST_DOMAIN_CHARACTER),
        ("spiffe://example%2eorg/a", SpiffeIdCode.PERCENT_ENCODING),
        ("spiffe://example.org?q/a", SpiffeIdCode.QUERY),
        ("spiffe://example.org#f", SpiffeIdCode.FRAGMENT),
        ("spiffe://example.org/a?", SpiffeIdCode.QUERY),
        ("spiffe://example.org/a#", SpiffeIdCode.FRAGMENT),
        ("spiffe://example.org/a:b", SpiffeIdCode.PATH_CHARACTER),
        ("spiffe://example.org/a@b", SpiffeIdCode.PATH_CHARACTER),
        ("spiffe://example.org/a b", SpiffeIdCode.PATH_CHARACTER),
        ("spiffe://example.org/a\\b", SpiffeIdCode.PATH_CHARACTER),
        ("spiffe://example.org/a*", SpiffeIdCode.PATH_CHARACTER),
        ("spiffe://example.org/\ud800", SpiffeIdCode.PATH_CHARACTER),
        ("spiffe://example.org/\u0661", SpiffeIdCode.PATH_CHARACTER),
        ("spiffe://example.org//a", SpiffeIdCode.EMPTY_SEGMENT),
        ("spiffe://example.org/a//b", SpiffeIdCode.EMPTY_SEGMENT),
        ("spiffe://example.org/./a", SpiffeIdCode.DOT_SEGMENT),
        ("spiffe://example.org/a/..", SpiffeIdCode.DOT_SEGMENT),
        ("spiffe://example.org/", SpiffeIdCode.TRAILING_SLASH),
    ],
)
def test_defect_has_its_code(text: str, code: SpiffeIdCode) -> None:
    with pytest.raises(SpiffeIdError) as caught:
        SpiffeId.parse(text)
    assert caught.value.code is code
    assert caught.value.fault is Fault.PEER


@pytest.mark.threat(6)
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("spiffe://Example.org/agent/planner/1", SpiffeIdCode.TRUST_DOMAIN_CHARACTER),
        ("SPIFFE://example.org/agent/planner/1", SpiffeIdCode.WRONG_SCHEME),
        ("Spiffe://example.org/agent/planner/1", SpiffeIdCode.WRONG_SCHEME),
        ("spiffe://example.org/agent/%70lanner/1", SpiffeIdCode.PERCENT_ENCODING),
        ("spiffe://example.org/agent%2eplanner/1", SpiffeIdCode.PERCENT_ENCODING),
        ("spiffe://example.org/agent/%2e%2e/planner/1", SpiffeIdCode.PERCENT_ENCODING),
        ("spiffe://example.org/agent/planner/1/", SpiffeIdCode.TRAILING_SLASH),
        ("spiffe://example.org/agent/planner/1\n", SpiffeIdCode.PATH_CHARACTER),
        ("spiffe://example.org\n", SpiffeIdCode.TRUST_DOMAIN_CHARACTER),
        ("spiffe://example.org/agent/planner/1\0", SpiffeIdCode.PATH_CHARACTER),
        ("spiffe://example.org/agent/planner/1?x", SpiffeIdCode.QUERY),
        ("spiffe://example.org:443/agent/planner/1", SpiffeIdCode.PORT),
        ("spiffe://example.org:/agent/planner/1", SpiffeIdCode.PORT),
        ("spiffe://user@example.org/agent/planner/1", SpiffeIdCode.USERINFO),
        ("spiffe://@example.org/agent/planner/1", SpiffeIdCode.USERINFO),
        ("spiffe://user:password@example.org/agent/planner/1", SpiffeIdCode.USERINFO),
        ("\u017fpiffe://example.org/agent/planner/1", SpiffeIdCode.WRONG_SCHEME),
        ("spiffe://example.org/agent/te\u017ft/1", SpiffeIdCode.PATH_CHARACTER),
        ("spiffe://te\u017ft.org/agent/planner/1", SpiffeIdCode.TRUST_DOMAIN_CHARACTER),
    ],
)
def test_threat_6_look_alike_is_malformed_and_not_normalised(text: str, code: SpiffeIdCode) -> None:
    with pytest.raises(SpiffeIdError) as caught:
        SpiffeId.parse(text)
    assert caught.value.code is code


def test_longest_trust_domain_and_id_are_accepted() -> None:
    name = "a" * MAX_TRUST_DOMAIN_BYTES
    text = f"spiffe://{name}/"
    text += "b" * (MAX_ID_BYTES - len(text))
    assert str(SpiffeId.parse(text)) == text


def test_length_counts_however_the_value_is_made() -> None:
    with pytest.raises(SpiffeIdError) as caught:
        SpiffeId(TrustDomain("a"), "/" + "b" * MAX_ID_BYTES)
    assert caught.value.code is SpiffeIdCode.TOO_LONG


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("agent", SpiffeIdCode.PATH_NOT_ABSOLUTE),
        (".evil.example/agent", SpiffeIdCode.PATH_NOT_ABSOLUTE),
        ("/", SpiffeIdCode.TRAILING_SLASH),
        ("/a\n", SpiffeIdCode.PATH_CHARACTER),
    ],
)
def test_constructor_makes_no_invalid_value(path: str, code: SpiffeIdCode) -> None:
    with pytest.raises(SpiffeIdError) as caught:
        SpiffeId(TrustDomain("example.org"), path)
    assert caught.value.code is code


@pytest.mark.parametrize("name", ["", "Example.org", "spiffe://example.org", "example.org/", "example.org\n", "a:1"])
def test_trust_domain_is_a_bare_valid_name(name: str) -> None:
    with pytest.raises(SpiffeIdError):
        TrustDomain.parse(name)
    assert str(TrustDomain.parse("example.org")) == "example.org"


def test_message_shows_hostile_text_escaped_and_cut() -> None:
    with pytest.raises(SpiffeIdError) as caught:
        SpiffeId.parse("\x1b[31m\r\n" + "x" * 1000)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abc", "'abc'"),
        ("a\n\u017f", "'a\\n\\u017f'"),
        ("a" * 80, "'" + "a" * 80 + "'"),
        ("a" * 81, "'" + "a" * 80 + "'..."),
    ],
)
def test_text_as_shown(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_every_defect_has_a_text() -> None:
    """The tables above and the constructor's reach every code."""
    reached = set()
    for test in (test_defect_has_its_code, test_threat_6_look_alike_is_malformed_and_not_normalised):
        for mark in test.pytestmark:
            if mark.name == "parametrize":
                reached |= {code for _, code in mark.args[1]}
    assert reached | {SpiffeIdCode.PATH_NOT_ABSOLUTE} == set(SpiffeIdCode)


def test_ids_are_ordered_and_hashable() -> None:
    first, second = SpiffeId.parse("spiffe://a/a"), SpiffeId.parse("spiffe://a/b")
    assert sorted({second, first, SpiffeId.parse("spiffe://a/a")}) == [first, second]
