"""Which URLs are asked at all, and that none of them is ever quoted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.issuer.url import MAX_CHARACTERS, Endpoint, endpoint


@pytest.mark.parametrize(
    ("url", "expected", "field"),
    [
        ("https://idp.internal", Endpoint(True, "idp.internal", 443, "/"), "idp.internal"),
        ("HTTPS://idp.internal:443/", Endpoint(True, "idp.internal", 443, "/"), "idp.internal"),
        ("https://idp.internal:8443/a/b?c=d/e?f", Endpoint(True, "idp.internal", 8443, "/a/b?c=d/e?f"), None),
        ("https://idp.internal?a=b", Endpoint(True, "idp.internal", 443, "/?a=b"), "idp.internal"),
        ("https://10.0.0.7/x", Endpoint(True, "10.0.0.7", 443, "/x"), "10.0.0.7"),
        ("https://[fd00::7]/x", Endpoint(True, "fd00::7", 443, "/x"), "[fd00::7]"),
        ("https://[fd00::7]:8443/x", Endpoint(True, "fd00::7", 8443, "/x"), "[fd00::7]:8443"),
        ("https://idp_one.internal/%7Ea", Endpoint(True, "idp_one.internal", 443, "/%7Ea"), "idp_one.internal"),
    ],
)
def test_what_is_asked(url: str, expected: Endpoint, field: str | None) -> None:
    found = endpoint(url)
    assert found == expected
    assert found.host_field == (field or "idp.internal:8443")


def test_messages_name_host_and_port() -> None:
    assert str(endpoint("https://idp.internal/hush?hush")) == "idp.internal:443"
    assert str(endpoint("https://[::1]:8443/hush")) == "[::1]:8443"
    assert "hush" not in repr(endpoint("https://idp.internal/hush?hush"))


def test_plaintext_is_asked_for_by_name() -> None:
    found = endpoint("http://127.0.0.1/x", plaintext=True)
    assert found == Endpoint(False, "127.0.0.1", 80, "/x")
    assert found.host_field == "127.0.0.1"
    assert endpoint("http://127.0.0.1:443/x", plaintext=True).host_field == "127.0.0.1:443"
    assert endpoint("https://127.0.0.1/x", plaintext=True).secure
    with pytest.raises(SourceError) as caught:
        endpoint("http://127.0.0.1/x")
    assert caught.value.code is SourceCode.METADATA
    assert "unsafe_plaintext_issuer" in caught.value.hint


BAD = [
    "",
    "idp.internal/hush",
    "//idp.internal/hush",
    "https:/idp.internal/hush",
    "https://",
    "https:///hush",
    "https://:443/hush",
    "ftp://idp.internal/hush",
    "file:///etc/hush",
    "unix://idp.internal/hush",
    "https://user@idp.internal/hush",
    "https://user:hush@idp.internal/",
    "https://idp.internal@evil.example/hush",
    "https://idp.internal/hush#",
    "https://idp.internal/hush#fragment",
    "https://idp.internal\\@evil.example/hush",
    "https://idp.internal/hush\\..",
    "https://idp.internal/hush hush",
    " https://idp.internal/hush",
    "https://idp.internal/hush\n",
    "https://idp.internal/\r\nHost: evil.example",
    "https://idp.internal/hush\0",
    "https://idp.internal/hush\t",
    "ht\ttps://idp.internal/hush",
    "https://idp.inter\u0131nal/hush",
    "https://idp.internal/h\u00fcsh",
    "https://idp.internal\uff0fhush",
    "https://idp.internal:/hush",
    "https://idp.internal:0/hush",
    "https://idp.internal:65536/hush",
    "https://idp.internal:+443/hush",
    "https://idp.internal:44_3/hush",
    "https://idp.internal:\u0664/hush",
    "https://idp..internal/hush",
    "https://.idp.internal/hush",
    "https://idp.internal./hush",
    "https://idp%2einternal/hush",
    f"https://{'a' * 64}.internal/hush",
    f"https://{'a.' * 127}aa/hush",
    "https://[::1/hush",
    "https://::1/hush",
    "https://[::g]/hush",
    "https://[1.2.3.4]/hush",
    "https://[fe80::1%25eth0]/hush",
    "https://[::1]x/hush",
    "https://idp.internal/" + "a" * MAX_CHARACTERS,
]


@pytest.mark.parametrize("url", BAD)
def test_what_is_not(url: str) -> None:
    with pytest.raises(SourceError) as caught:
        endpoint(url, plaintext=True)
    assert caught.value.code is SourceCode.METADATA
    assert "hush" not in str(caught.value) + caught.value.hint
    assert caught.value.hint
    assert caught.value.__cause__ is caught.value.__context__ is None


@given(st.text(max_size=40), st.text(max_size=40))
def test_whatever_is_accepted_is_one_line_of_ascii_for_the_host_that_stands_there(start: str, end: str) -> None:
    """For any text around a host: the URL is refused, or what will be sent is visible ASCII and the host is this one."""
    try:
        found = endpoint(f"https://{start}idp.internal{end}")
    except SourceError as error:
        code = error.code
    else:
        code = SourceCode.METADATA
        assert found.target.isascii()
        assert found.target.isprintable()
        assert " " not in found.target
        assert "idp.internal" in found.host or "idp.internal" in found.target
    assert code is SourceCode.METADATA
