from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.policy.paths import (
    _PLAIN,
    PathCode,
    PathError,
    PathPattern,
    PatternCode,
    PatternError,
    _check_unusual,
    check_path,
)


def verdict(path: bytes, *, strict: bool) -> PathCode | None:
    try:
        check_path(path, strict=strict)
    except PathError as error:
        return error.code
    return None


PLAIN = [
    b"/",
    b"/mcp",
    b"/mcp/",
    b"/.well-known/oauth-protected-resource",
    b"/a.b/..c/...",
    b"/a;v=1/b;",
    b"/%61dmin/%7Euser/%E2%82%AC/100%25",
    b"/:colon/@at/!$&'()*+,=~-_",
    b'/a[0]/{b}/^|"<>`',
    b"/caf%e9",
]


@pytest.mark.parametrize("path", PLAIN)
@pytest.mark.parametrize("strict", [True, False])
def test_a_path_with_one_reading_passes(path: bytes, strict: bool) -> None:
    assert verdict(path, strict=strict) is None


REFUSED_EVERYWHERE = [
    (b"", PathCode.RELATIVE),
    (b"*", PathCode.RELATIVE),
    (b"mcp", PathCode.RELATIVE),
    (b"http://host/", PathCode.RELATIVE),
    (b"/a b", PathCode.CHARACTER),
    (b"/a\0", PathCode.CHARACTER),
    (b"/a\n", PathCode.CHARACTER),
    (b"/a\x7f", PathCode.CHARACTER),
    (b"/caf\xc3\xa9", PathCode.CHARACTER),
    (b"/a#b", PathCode.CHARACTER),
    (b"/a?b", PathCode.CHARACTER),
    (b"/a\\b", PathCode.BACKSLASH),
    (b"/%", PathCode.BAD_ESCAPE),
    (b"/%2", PathCode.BAD_ESCAPE),
    (b"/%zz", PathCode.BAD_ESCAPE),
    (b"/%%41", PathCode.BAD_ESCAPE),
    (b"/%u002e", PathCode.BAD_ESCAPE),
    (b"/a%00", PathCode.NUL),
    (b"/.", PathCode.DOT_SEGMENT),
    (b"/..", PathCode.DOT_SEGMENT),
    (b"/x/./y", PathCode.DOT_SEGMENT),
    (b"/x/../y", PathCode.DOT_SEGMENT),
    (b"/x/%2e%2E/y", PathCode.DOT_SEGMENT),
    (b"/x/.%2e/y", PathCode.DOT_SEGMENT),
    (b"/x/..;/y", PathCode.DOT_SEGMENT),
    (b"/x/..;a=b/y", PathCode.DOT_SEGMENT),
    (b"/x/%2e%2e%3b/y", PathCode.DOT_SEGMENT),
    (b"/x/.;", PathCode.DOT_SEGMENT),
]

REFUSED_WHERE_STRICT = [
    (b"//", PathCode.EMPTY_SEGMENT),
    (b"//x", PathCode.EMPTY_SEGMENT),
    (b"/x//y", PathCode.EMPTY_SEGMENT),
    (b"/x//", PathCode.EMPTY_SEGMENT),
    (b"/;/x", PathCode.EMPTY_SEGMENT),
    (b"/;a=b/x", PathCode.EMPTY_SEGMENT),
    (b"/x/;a", PathCode.EMPTY_SEGMENT),
    (b"/x/%3Ba", PathCode.EMPTY_SEGMENT),
    (b"/x%2fy", PathCode.ENCODED_SLASH),
    (b"/x%2Fy", PathCode.ENCODED_SLASH),
    (b"/x%5cy", PathCode.ENCODED_BACKSLASH),
    (b"/x%5Cy", PathCode.ENCODED_BACKSLASH),
    (b"/x%c0%afy", PathCode.OVERLONG_ESCAPE),
    (b"/x%C1%9Cy", PathCode.OVERLONG_ESCAPE),
    (b"/x%e0%80%af", PathCode.OVERLONG_ESCAPE),
    (b"/x%f0%80%80%af", PathCode.OVERLONG_ESCAPE),
]


@pytest.mark.parametrize(("path", "code"), REFUSED_EVERYWHERE)
def test_a_path_with_two_readings_is_refused_everywhere(path: bytes, code: PathCode) -> None:
    assert verdict(path, strict=True) is code
    assert verdict(path, strict=False) is code


@pytest.mark.parametrize(("path", "code"), REFUSED_WHERE_STRICT)
def test_escapes_and_empty_segments_are_refused_only_where_rules_look_at_paths(path: bytes, code: PathCode) -> None:
    assert verdict(path, strict=True) is code
    assert verdict(path, strict=False) is None


@pytest.mark.parametrize("path", [b"/x/..%2fy", b"/x%2f..", b"/x/..%5cy", b"/x%5C%2e%2e", b"/%2f..;a%2f"])
def test_an_encoded_slash_cannot_hide_a_dot_segment(path: bytes) -> None:
    assert verdict(path, strict=False) is PathCode.DOT_SEGMENT


def test_every_code_is_the_answer_to_some_path() -> None:
    assert {code for _, code in REFUSED_EVERYWHERE + REFUSED_WHERE_STRICT} == set(PathCode)


@pytest.mark.threat(16)
def test_threat_16_every_single_byte_is_judged() -> None:
    passed = bytes(byte for byte in range(256) if verdict(b"/a" + bytes([byte]) + b"b", strict=True) is None)
    assert passed == bytes(byte for byte in range(0x21, 0x7F) if byte not in b"#%?\\")


@given(st.text(alphabet="/.;%2eEfFcC5\\a ", max_size=12).map(lambda text: b"/" + text.encode()))
@example(b"/a/..%00/")
def test_what_passes_has_no_dot_segment_under_any_common_reading(path: bytes) -> None:
    """A strict path that passes has the same segments, none of them a dot or empty, however a server reads it."""
    if verdict(path, strict=True) is not None:
        return
    assert verdict(path, strict=False) is None
    decoded = unquote_to_bytes(path)
    readings = [
        path.split(b"/"),
        decoded.split(b"/"),
        re.split(rb"[/\\]", decoded),
        [segment.split(b";")[0] for segment in decoded.split(b"/")],
        decoded.replace(b"\\", b"/").split(b"/"),
    ]
    for segments in readings:
        assert len(segments) == len(readings[0])
        assert not {b".", b".."} & set(segments)
        assert b"" not in segments[1:-1]
        assert bool(segments[-1]) is not path.endswith(b"/")


@given(st.binary(max_size=40))
def test_any_bytes_pass_or_give_the_one_error(path: bytes) -> None:
    """A path passes or raises PathError, and what passes strictly passes otherwise too."""
    if verdict(path, strict=True) is None:
        assert verdict(path, strict=False) is None


@given(st.text(alphabet="/.;%*:@a[~-", max_size=12).map(lambda text: b"/" + text.encode()))
def test_the_short_way_lets_nothing_pass_that_the_long_way_refuses(path: bytes) -> None:
    """A path that is taken for plain at first sight passes every single check as well."""
    if _PLAIN.fullmatch(path):
        _check_unusual(path, strict=True)


def test_a_long_path_is_judged_in_linear_time() -> None:
    # Were the expression to backtrack, this would not end.
    check_path(b"/a;" * 5000 + b"/", strict=True)
    assert verdict(b"/a.;" * 4000 + b"\\", strict=True) is PathCode.BACKSLASH
    assert verdict(b"/" * 16000 + b"..", strict=False) is PathCode.DOT_SEGMENT


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("/mcp", ["/mcp"], ["/mcp/", "/MCP", "/mcp/x", "/mc", "/%6dcp", "mcp", ""]),
        ("/mcp/", ["/mcp/"], ["/mcp", "/mcp/x", "/mcp//"]),
        ("/", ["/"], ["", "//", "/a"]),
        ("/tools/*", ["/tools/a", "/tools/*"], ["/tools", "/tools/", "/tools/a/", "/tools/a/b", "/toolsa"]),
        ("/tools/**", ["/tools", "/tools/", "/tools/a", "/tools/a/b/"], ["/toolsa", "/tool", "/x/tools"]),
        ("/**", ["/", "/a", "/a/b/", "//"], ["", "*"]),
        ("/**/admin", ["/admin", "/a/admin", "/a/b/admin"], ["/admin/", "/aadmin", "/admin/x"]),
        ("/a/**/b/*", ["/a/b/c", "/a/x/y/b/c", "/a/b/b/b"], ["/a/b", "/a/x/b", "/a/b/", "/b/c"]),
        ("/%61", ["/%61"], ["/a"]),
    ],
)
def test_a_pattern_compares_segments_byte_for_byte(pattern: str, yes: list[str], no: list[str]) -> None:
    parsed = PathPattern.parse(pattern)
    assert [path for path in yes if not parsed.matches(path.encode())] == []
    assert [path for path in no if parsed.matches(path.encode())] == []


@pytest.mark.parametrize("text", ["/", "/mcp/", "/a/*/b/**", "/**/a/**"])
def test_a_pattern_is_written_as_it_was_read(text: str) -> None:
    assert str(PathPattern.parse(text)) == text
    assert PathPattern.parse(text) == PathPattern.parse(text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", PatternCode.PATTERN_RELATIVE),
        ("mcp", PatternCode.PATTERN_RELATIVE),
        ("**", PatternCode.PATTERN_RELATIVE),
        ("/a?b=c", PatternCode.PATTERN_CHARACTER),
        ("/a#b", PatternCode.PATTERN_CHARACTER),
        ("/a b", PatternCode.PATTERN_CHARACTER),
        ("/a\\b", PatternCode.PATTERN_CHARACTER),
        ("/a\n", PatternCode.PATTERN_CHARACTER),
        ("/é", PatternCode.PATTERN_CHARACTER),
        ("//", PatternCode.PATTERN_EMPTY_SEGMENT),
        ("//a", PatternCode.PATTERN_EMPTY_SEGMENT),
        ("/a//b", PatternCode.PATTERN_EMPTY_SEGMENT),
        ("/a*", PatternCode.PATTERN_PARTIAL_WILDCARD),
        ("/*.json", PatternCode.PATTERN_PARTIAL_WILDCARD),
        ("/***", PatternCode.PATTERN_PARTIAL_WILDCARD),
        ("/**/**", PatternCode.PATTERN_TOO_DEEP),
        ("/**/a/**/b/**/c/**/d/**", PatternCode.PATTERN_TOO_DEEP),
        ("/a/../b", PatternCode.PATTERN_NEVER_MATCHES),
        ("/a%2fb", PatternCode.PATTERN_NEVER_MATCHES),
        ("/a%zz", PatternCode.PATTERN_NEVER_MATCHES),
        ("/a/;b", PatternCode.PATTERN_NEVER_MATCHES),
    ],
)
def test_a_pattern_that_no_request_can_match_is_a_configuration_error(text: str, code: PatternCode) -> None:
    with pytest.raises(PatternError) as raised:
        PathPattern.parse(text)
    assert raised.value.code is code
    assert repr(text) in str(raised.value)


@given(st.text(alphabet="/*.%2fa?# é\n\\", max_size=10))
def test_any_text_is_a_pattern_or_the_one_error(text: str) -> None:
    """A text either parses to a pattern that is written alike or raises PatternError."""
    try:
        pattern = PathPattern.parse(text)
    except PatternError:
        return
    assert str(pattern) == text
