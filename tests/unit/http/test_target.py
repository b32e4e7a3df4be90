import pytest

from sidecar.http.errors import HttpCode, HttpError
from sidecar.http.messages import TargetForm
from sidecar.http.target import Target, is_authority, parse_target, same_authority

ORIGIN, ABSOLUTE, AUTHORITY, ASTERISK = TargetForm


@pytest.mark.parametrize(
    ("method", "target", "parts"),
    [
        (b"GET", b"/", (ORIGIN, b"", b"", b"/", b"")),
        (b"GET", b"/a/b;c=d?e=f/?g", (ORIGIN, b"", b"", b"/a/b;c=d", b"?e=f/?g")),
        (b"GET", b"//a/../%2f%zz?", (ORIGIN, b"", b"", b"//a/../%2f%zz", b"?")),
        (b"GET", b"/?[]{|}^`'", (ORIGIN, b"", b"", b"/", b"?[]{|}^`'")),
        (b"OPTIONS", b"/x", (ORIGIN, b"", b"", b"/x", b"")),
        (b"GET", b"http://A.Example:80/X?y", (ABSOLUTE, b"http", b"a.example:80", b"/X", b"?y")),
        (b"GET", b"HTTP://a", (ABSOLUTE, b"http", b"a", b"/", b"")),
        (b"GET", b"http://a?q", (ABSOLUTE, b"http", b"a", b"/", b"?q")),
        (b"OPTIONS", b"http://a:1", (ABSOLUTE, b"http", b"a:1", b"*", b"")),
        (b"OPTIONS", b"http://a?q", (ABSOLUTE, b"http", b"a", b"/", b"?q")),
        (b"OPTIONS", b"*", (ASTERISK, b"", b"", b"*", b"")),
        (b"CONNECT", b"A.example:443", (AUTHORITY, b"", b"a.example:443", b"", b"")),
        (b"CONNECT", b"[::1]:443", (AUTHORITY, b"", b"[::1]:443", b"", b"")),
    ],
)
def test_targets_are_taken_apart(method: bytes, target: bytes, parts: tuple[object, ...]) -> None:
    assert parse_target(method, target, secure=False) == Target(*parts)


@pytest.mark.parametrize(
    ("method", "target", "code"),
    [
        (b"GET", b"", HttpCode.BAD_TARGET_FORM),
        (b"GET", b"*", HttpCode.BAD_TARGET_FORM),
        (b"GET", b"a.example:443", HttpCode.BAD_TARGET_FORM),
        (b"GET", b"a.example", HttpCode.BAD_TARGET_FORM),
        (b"GET", b"?q", HttpCode.BAD_TARGET_FORM),
        (b"CONNECT", b"/", HttpCode.BAD_TARGET_FORM),
        (b"CONNECT", b"*", HttpCode.BAD_TARGET_FORM),
        (b"CONNECT", b"a.example", HttpCode.BAD_TARGET_FORM),
        (b"CONNECT", b"[::1]", HttpCode.BAD_TARGET_FORM),
        (b"CONNECT", b"http://a:1/", HttpCode.BAD_TARGET_FORM),
        (b"CONNECT", b"u@a:443", HttpCode.BAD_TARGET_FORM),
        (b"GET", b"/#f", HttpCode.BAD_TARGET),
        (b"GET", b"/a\\b", HttpCode.BAD_TARGET),
        (b"GET", b"/?a\\b", HttpCode.BAD_TARGET),
        (b"GET", b'/"', HttpCode.BAD_TARGET),
        (b"GET", b"/<", HttpCode.BAD_TARGET),
        (b"GET", b"/?>", HttpCode.BAD_TARGET),
        (b"GET", b"/{", HttpCode.BAD_TARGET),
        (b"GET", b"/|", HttpCode.BAD_TARGET),
        (b"GET", b"/[", HttpCode.BAD_TARGET),
        (b"GET", b"/^`", HttpCode.BAD_TARGET),
        (b"GET", b"/\xc3\xa9", HttpCode.BAD_TARGET),
        (b"GET", b"http://a/#f", HttpCode.BAD_TARGET),
        (b"GET", b"http://a/{", HttpCode.BAD_TARGET),
        (b"GET", b"ftp://a/", HttpCode.BAD_SCHEME),
        (b"GET", b"httpx://a/", HttpCode.BAD_SCHEME),
        (b"GET", b"https://a/", HttpCode.SECURE_SCHEME_ON_PLAINTEXT),
        (b"GET", b"http:///", HttpCode.BAD_AUTHORITY),
        (b"GET", b"http://", HttpCode.BAD_AUTHORITY),
        (b"GET", b"http://u@a/", HttpCode.BAD_AUTHORITY),
        (b"GET", b"http://u:p@a/", HttpCode.BAD_AUTHORITY),
        (b"GET", b"http://a:/", HttpCode.BAD_AUTHORITY),
        (b"GET", b"http://a,b/", HttpCode.BAD_AUTHORITY),
        (b"GET", b"http://a\\@b/", HttpCode.BAD_AUTHORITY),
    ],
)
def test_what_is_no_target_has_its_code(method: bytes, target: bytes, code: HttpCode) -> None:
    with pytest.raises(HttpError) as caught:
        parse_target(method, target, secure=False)
    assert (caught.value.code, caught.value.status) == (code, 400)


def test_an_https_target_is_fine_where_tls_brought_it() -> None:
    assert parse_target(b"GET", b"https://a/", secure=True) == Target(ABSOLUTE, b"https", b"a", b"/", b"")


@pytest.mark.parametrize(
    "authority",
    [
        b"a", b"a.b-c_d~e", b"localhost:0", b"127.0.0.1:65535", b"a:00080", b"[::1]", b"[::1]:8443", b"[::ffff:1.2.3.4]",
        b"a" * 255, b"[2001:db8:0:0:0:0:0:1]:1",
    ],
)  # fmt: skip
def test_authorities(authority: bytes) -> None:
    assert is_authority(authority)


@pytest.mark.parametrize(
    "authority",
    [
        b"", b":80", b"a:", b"a:65536", b"a:99999", b"a:000080", b"a:+1", b"a:1:2", b"a b", b"a@b", b"a/b", b"a,b", b"a?b",
        b"a#b", b"a\\b", b"a%41", b"a!", b"a*", b"a;b", b"\xc3\xa9", b"A", b"[]", b"[::1", b"::1", b"[::g]", b"[1.2.3.4]",
        b"[:::]", b"[fe80::1%25eth0]", b"[v1.a]", b"[::1]x", b"a" * 256, b"a\n", b"a\x00", b"[1:2:3:4:5:6:7:8:9]",
    ],
)  # fmt: skip
def test_what_is_no_authority(authority: bytes) -> None:
    assert not is_authority(authority)


@pytest.mark.parametrize(
    ("one", "other", "scheme", "same"),
    [
        (b"a", b"a", b"http", True),
        (b"a:80", b"a", b"http", True),
        (b"a", b"a:80", b"http", True),
        (b"a:443", b"a", b"https", True),
        (b"a:443", b"a", b"http", False),
        (b"a:80", b"a", b"https", False),
        (b"a:80", b"a", b"", False),
        (b"a:080", b"a", b"http", False),
        (b"a.", b"a", b"http", False),
        (b"a", b"b", b"http", False),
        (b"[::1]:80", b"[::1]", b"http", True),
        (b"[::80]", b"[::]", b"http", False),
        (b"[::1]", b"[0::1]", b"http", False),
    ],
)
def test_authorities_are_compared_as_bytes_but_for_the_default_port(
    one: bytes, other: bytes, scheme: bytes, same: bool
) -> None:
    assert same_authority(one, other, scheme) is same
