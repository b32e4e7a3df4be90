from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.issuer.answer import Answer
from sidecar.tokens.issuer.metadata import KEEP_SECONDS, Endpoint, Endpoints, Metadata, places, read, unexpected
from sidecar.tokens.settings import Reach
from tests.support.eventually import soon

if TYPE_CHECKING:
    from collections.abc import Mapping

ISSUER = "https://as.example/realm"
OAUTH = "https://as.example/.well-known/oauth-authorization-server/realm"
OPENID = "https://as.example/realm/.well-known/openid-configuration"
GOOD = {"issuer": ISSUER, "token_endpoint": "https://as.example/token"}


def answer(status: int = 200, body: Mapping[str, Any] | bytes = GOOD) -> Answer:
    return Answer(status, "application/json", body if isinstance(body, bytes) else json.dumps(body).encode())


class Stub:
    """Answers by URL; 404 elsewhere."""

    def __init__(self, answers: Mapping[str, Answer | SourceError]) -> None:
        self.answers = dict(answers)
        self.asked: list[str] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def get(self, url: str, *, accept: str = "application/json") -> Answer:
        self.asked.append(url)
        await self.go_on.wait()
        found = self.answers.get(url, answer(404, b""))
        if isinstance(found, SourceError):
            raise found
        return found


class Ticking:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def metadata(stub: Stub, *, clock: Ticking | None = None, plaintext: bool = False, issuer: str = ISSUER) -> Metadata:
    return Metadata(issuer, Reach(unsafe_plaintext=plaintext), stub, clock or Ticking())


@pytest.mark.parametrize(
    ("issuer", "oauth", "openid"),
    [
        ("https://a.example", "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"),
        ("https://a.example/", "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"),
        ("https://a.example/b", "/.well-known/oauth-authorization-server/b", "/b/.well-known/openid-configuration"),
        ("https://a.example/b/", "/.well-known/oauth-authorization-server/b", "/b/.well-known/openid-configuration"),
        (
            "https://a.example/b/c",
            "/.well-known/oauth-authorization-server/b/c",
            "/b/c/.well-known/openid-configuration",
        ),
    ],
)
def test_where_it_is_looked_for(issuer: str, oauth: str, openid: str) -> None:
    # RFC 8414 3.1 has the first with a path in its example; OpenID Connect Discovery 4.1 the second.
    assert places(issuer) == (f"https://a.example{oauth}", f"https://a.example{openid}")


def test_a_port_stays() -> None:
    assert places("https://[::1]:8443/b")[0] == "https://[::1]:8443/.well-known/oauth-authorization-server/b"


@pytest.mark.parametrize(
    "issuer", ["https://a.example?x=1", "https://a.example/b#c", "https://a.example/?", "https://a.example#"]
)
def test_an_issuer_has_no_query_and_no_fragment(issuer: str) -> None:
    with pytest.raises(SourceError) as caught:
        places(issuer)
    assert caught.value.code is SourceCode.METADATA


async def test_the_first_place_is_enough() -> None:
    stub = Stub({OAUTH: answer()})
    assert await metadata(stub).endpoints() == Endpoints(
        Endpoint("https://as.example/token", "https://as.example/token"), None
    )
    assert stub.asked == [OAUTH]


async def test_the_second_place_after_a_404() -> None:
    stub = Stub({OPENID: answer()})
    await metadata(stub).endpoints()
    assert stub.asked == [OAUTH, OPENID]


@pytest.mark.parametrize("status", [201, 204, 301, 302, 307, 400, 401, 403, 410, 500, 503])
async def test_no_second_place_after_anything_else(status: int) -> None:
    stub = Stub({OAUTH: answer(status, b""), OPENID: answer()})
    with pytest.raises(SourceError) as caught:
        await metadata(stub).endpoints()
    assert caught.value.code is SourceCode.STATUS
    assert str(status) in str(caught.value)
    assert ("redirects are not followed" in caught.value.hint) is (300 <= status < 400)
    assert stub.asked == [OAUTH]


async def test_nowhere() -> None:
    with pytest.raises(SourceError) as caught:
        await metadata(Stub({})).endpoints()
    assert caught.value.code is SourceCode.STATUS
    assert "404" in str(caught.value)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"issuer": "a", "issuer": "b"}', b""])
async def test_what_is_no_json_object(body: bytes) -> None:
    with pytest.raises(SourceError) as caught:
        await metadata(Stub({OAUTH: answer(200, body)})).endpoints()
    assert caught.value.code is SourceCode.BAD_ANSWER


@pytest.mark.parametrize(
    "named",
    [
        None,
        "",
        "https://as.example",
        f"{ISSUER}/",
        ISSUER.upper(),
        "https://AS.example/realm",
        f"{ISSUER}#",
        1,
        [ISSUER],
        {},
    ],
)
def test_the_issuer_is_equal_byte_for_byte(named: object) -> None:
    with pytest.raises(SourceError) as caught:
        read(GOOD | {"issuer": named}, ISSUER, plaintext=False)
    assert caught.value.code is SourceCode.METADATA
    assert ISSUER in str(caught.value)


def test_a_final_slash_is_named() -> None:
    for named, issuer, word in ((f"{ISSUER}/", ISSUER, "with a final"), (ISSUER, f"{ISSUER}/", "without a final")):
        with pytest.raises(SourceError, match=word):
            read(GOOD | {"issuer": named}, issuer, plaintext=False)


BAD_URLS = [
    "http://as.example/token",
    "HTTP://as.example/token",
    "ftp://as.example/token",
    "//as.example/token",
    "/token",
    "",
    "https://",
    "https:///token",
    "https://user:secret@as.example/token",
    "https://as.example/token#secret",
    "https://as.example/a b",
    "https://as.example/a\r\nb",
    "https://as.example\\@evil.example/",
    "https://as.example:99999/",
    "https://as.example/" + "a" * 3000,
    1,
    ["https://as.example/token"],
    {},
    True,
]


@pytest.mark.parametrize("url", BAD_URLS)
@pytest.mark.parametrize("name", ["token_endpoint", "revocation_endpoint"])
@pytest.mark.parametrize("alias", [False, True])
def test_an_endpoint_that_may_not_be_used(url: object, name: str, *, alias: bool) -> None:
    document: dict[str, Any] = GOOD | ({"mtls_endpoint_aliases": {name: url}} if alias else {name: url})
    with pytest.raises(SourceError) as caught:
        read(document, ISSUER, plaintext=False)
    assert caught.value.code is SourceCode.METADATA
    assert name in str(caught.value)
    assert "secret" not in str(caught.value) + caught.value.hint + repr(caught.value.__context__)


def test_plain_http_is_for_endpoints_without_certificates() -> None:
    document = GOOD | {"token_endpoint": "http://as.example/token"}
    assert read(document, ISSUER, plaintext=True).token == Endpoint("http://as.example/token", None)
    alias = {"mtls_endpoint_aliases": {"token_endpoint": "http://as.example/token"}}
    with pytest.raises(SourceError) as caught:
        read(document | alias, ISSUER, plaintext=True)
    assert caught.value.code is SourceCode.METADATA


def test_aliases_are_for_mutual_tls() -> None:
    aliases = {"token_endpoint": "https://mtls.example/token", "revocation_endpoint": "https://mtls.example/revoke"}
    document = GOOD | {"revocation_endpoint": "https://as.example/revoke", "mtls_endpoint_aliases": aliases}
    assert read(document, ISSUER, plaintext=False) == Endpoints(
        Endpoint("https://as.example/token", "https://mtls.example/token"),
        Endpoint("https://as.example/revoke", "https://mtls.example/revoke"),
    )
    partly = document | {"mtls_endpoint_aliases": {"token_endpoint": "https://mtls.example/token"}}
    revocation = read(partly, ISSUER, plaintext=False).revocation
    assert revocation == Endpoint("https://as.example/revoke", "https://as.example/revoke")


@pytest.mark.parametrize("aliases", [[], "https://mtls.example", 1, None])
def test_aliases_that_are_no_object(aliases: object) -> None:
    with pytest.raises(SourceError) as caught:
        read(GOOD | {"mtls_endpoint_aliases": aliases}, ISSUER, plaintext=False)
    assert caught.value.code is SourceCode.METADATA


def test_there_has_to_be_a_token_endpoint() -> None:
    for document in ({"issuer": ISSUER}, GOOD | {"token_endpoint": None}):
        with pytest.raises(SourceError) as caught:
            read(document, ISSUER, plaintext=False)
        assert caught.value.code is SourceCode.METADATA


async def test_it_is_kept_for_ten_minutes() -> None:
    stub, clock = Stub({OAUTH: answer()}), Ticking()
    found = metadata(stub, clock=clock)
    await found.endpoints()
    clock.now = KEEP_SECONDS - 1
    await found.endpoints()
    assert stub.asked == [OAUTH]
    clock.now = KEEP_SECONDS
    await found.endpoints()
    assert stub.asked == [OAUTH, OAUTH]


async def test_a_failure_is_not_kept_nor_is_what_it_followed() -> None:
    stub, clock = Stub({OAUTH: answer(500, b"")}), Ticking()
    found = metadata(stub, clock=clock)
    for _ in range(2):
        with pytest.raises(SourceError):
            await found.endpoints()
    stub.answers[OAUTH] = answer()
    assert (await found.endpoints()).token.plain
    assert len(stub.asked) == 3
    clock.now = KEEP_SECONDS
    stub.answers[OAUTH] = SourceError(SourceCode.UNREACHABLE, "gone")
    with pytest.raises(SourceError):
        await found.endpoints()


async def test_many_wait_for_one_answer() -> None:
    stub = Stub({OAUTH: answer()})
    stub.go_on.clear()
    found = metadata(stub)
    tasks = [asyncio.get_running_loop().create_task(found.endpoints()) for _ in range(10)]
    await soon(lambda: stub.asked, "the request")
    stub.go_on.set()
    assert len(set(await asyncio.gather(*tasks))) == 1
    assert stub.asked == [OAUTH]


async def test_many_wait_for_one_failure() -> None:
    stub = Stub({OAUTH: SourceError(SourceCode.TIMEOUT, "slow", hint="h")})
    stub.go_on.clear()
    found = metadata(stub)
    tasks = [asyncio.get_running_loop().create_task(found.endpoints()) for _ in range(10)]
    await soon(lambda: stub.asked, "the request")
    stub.go_on.set()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [(type(e), getattr(e, "code", None), getattr(e, "hint", None)) for e in errors] == [
        (SourceError, SourceCode.TIMEOUT, "h")
    ] * 10
    assert len({id(error) for error in errors}) == 10
    assert stub.asked == [OAUTH]


async def test_whoever_asked_may_leave() -> None:
    stub = Stub({OAUTH: answer()})
    stub.go_on.clear()
    found = metadata(stub)
    loop = asyncio.get_running_loop()
    first, second = loop.create_task(found.endpoints()), loop.create_task(found.endpoints())
    await soon(lambda: stub.asked, "the request")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    stub.go_on.set()
    assert (await second).token.plain == "https://as.example/token"
    assert stub.asked == [OAUTH, OAUTH]


@pytest.mark.parametrize(
    ("status", "word"), [(302, "redirects"), (404, "issuer"), (429, "overloaded"), (503, "overloaded"), (500, "log")]
)
def test_other_statuses(status: int, word: str) -> None:
    error = unexpected(status, "there")
    assert (error.code, str(error)) == (SourceCode.STATUS, f"status {status} there")
    assert word in error.hint
