from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config import urls
from sidecar.config.faults import ConfigCode, Faults
from sidecar.config.schema import Kind, Ledger, Spot
from sidecar.config.yaml import Scalar
from sidecar.errors import ConfigurationError


def at(value: str) -> Spot:
    return Spot(Scalar(value, False, 1), "key", 1, Faults(Path("/x.yaml")), Path("/"), {}, Ledger())


def refused(kind: Kind[str], value: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        kind.read(at(value))
    return caught.value


@pytest.mark.parametrize("kind", [urls.ISSUER, urls.JWKS])
@pytest.mark.parametrize(
    "value",
    [
        "https://issuer.example.org",
        "https://issuer.example.org/",
        "https://issuer.example.org//a/./b%2e",
        "https://Issuer.Example.ORG:8443/tenant",
        "https://127.0.0.1:9000",
        "https://[::1]",
        "https://[::1]:443/a",
        "http://issuer.example.org",
    ],
)
def test_urls_are_kept_byte_for_byte(kind: Kind[str], value: str) -> None:
    assert kind.read(at(value)) == value


@pytest.mark.parametrize("kind", [urls.ISSUER, urls.JWKS])
@pytest.mark.parametrize(
    ("value", "code", "message"),
    [
        ("", ConfigCode.BAD_URL, "this is not an https URL"),
        ("issuer.example.org", ConfigCode.BAD_URL, "this is not an https URL"),
        ("HTTPS://issuer.example.org", ConfigCode.BAD_URL, "this is not an https URL"),
        ("ftp://issuer.example.org", ConfigCode.BAD_URL, "this is not an https URL"),
        ("https:/issuer.example.org", ConfigCode.BAD_URL, "this is not an https URL"),
        ("https://issuer.example.org/a b", ConfigCode.BAD_URL, "this is not an https URL"),
        ("https://issuer.example.org/ä", ConfigCode.BAD_URL, "this is not an https URL"),
        ("https://", ConfigCode.BAD_URL, "the URL has no host"),
        ("https:///a", ConfigCode.BAD_URL, "the URL has no host"),
        ("https://a.b/#c", ConfigCode.BAD_URL, "the URL has a fragment"),
        ("https://a.b/#", ConfigCode.BAD_URL, "the URL has a fragment"),
        ("https://u:hunter2@a.b", ConfigCode.SECRET, "the URL holds a user name or password"),
        ("https://@a.b", ConfigCode.SECRET, "the URL holds a user name or password"),
        ("https://a.b:0", ConfigCode.BAD_ADDRESS, "port 0 means a port that nobody knows beforehand"),
        ("https://a.b:65536", ConfigCode.BAD_ADDRESS, '"65536" is not a port'),
        ("https://a.b:", ConfigCode.BAD_ADDRESS, '"" is not a port'),
        ("https://127.1", ConfigCode.BAD_ADDRESS, '"127.1" is not an IP address'),
        ("https://a_%41.b", ConfigCode.BAD_ADDRESS, '"a_%41.b" is neither an IP address nor a DNS name'),
        ("https://[::1", ConfigCode.BAD_ADDRESS, '"[::1" has too many colons'),
        ("https://a.b\\@c.d", ConfigCode.SECRET, "the URL holds a user name or password"),
    ],
)
def test_what_is_no_url_of_an_issuer(kind: Kind[str], value: str, code: ConfigCode, message: str) -> None:
    error = refused(kind, value)
    assert (error.code, str(error)) == (code, message)
    assert error.hint
    assert "hunter2" not in str(error) + error.hint


@pytest.mark.parametrize("value", ["https://a.b?c", "https://a.b/?", "https://a.b/?token=hunter2"])
def test_a_query_is_for_the_urls_of_keys_alone(value: str) -> None:
    assert urls.JWKS.read(at(value)) == value
    error = refused(urls.ISSUER, value)
    assert (error.code, str(error)) == (ConfigCode.BAD_URL, "the URL has a query (RFC 8414 2)")
    assert "hunter2" not in error.hint


@pytest.mark.parametrize(
    "value",
    [
        "https://tools.example.org",
        "https://t.example/a?b=c",
        "urn:example:tools",
        "api://tools",
        "spiffe://a.b/c",
        "a:%20",
    ],
)
def test_resources_are_absolute_uris(value: str) -> None:
    assert urls.RESOURCE.read(at(value)) == value


@pytest.mark.parametrize(
    "value",
    ["", "tools", "/tools", "https:", "https://t.example/#a", "https://t.example#", "a b:c", "a:b c", "a:ä", "a:%2"],
)
def test_what_is_no_resource(value: str) -> None:
    error = refused(urls.RESOURCE, value)
    assert (error.code, str(error)) == (
        ConfigCode.BAD_URL,
        "this is not an absolute URI without a fragment (RFC 8707 2)",
    )


def test_a_resource_has_no_password() -> None:
    assert refused(urls.RESOURCE, "https://u:hunter2@t.example").code is ConfigCode.SECRET


@given(st.text(st.sampled_from("https:/.@?#[]%a1 ä\\"), max_size=20))
def test_no_text_makes_an_unexpected_error(rest: str) -> None:
    """Invariant: a URL is returned as it is, without user name and fragment, or refused with a code."""
    for value in (rest, f"https://{rest}"):
        for kind in (urls.ISSUER, urls.JWKS, urls.RESOURCE):
            with contextlib.suppress(ConfigurationError):
                assert kind.read(at(value)) == value
                assert "#" not in value
                assert value.isascii()
                assert "@" not in value.partition("://")[2].partition("/")[0].partition("?")[0]


def test_what_is_in_clear() -> None:
    assert urls.plaintext("http://a.b")
    assert not urls.plaintext("https://a.b")
