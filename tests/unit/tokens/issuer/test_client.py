"""What the client asks of an issuer, to whom it shows what, and what it never does."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from sidecar.identity.issue import issue
from sidecar.identity.spiffe import SpiffeId
from sidecar.keys.openssl import ExternalKey
from sidecar.threads import Workers
from sidecar.tls.contexts import Credentials
from sidecar.tokens.codes import SourceCode
from sidecar.tokens.issuer.answer import Answer as AnswerThere
from sidecar.tokens.issuer.client import Answer, IssuerClient
from sidecar.tokens.settings import Reach
from tests.support.ca import HOUR, der
from tests.support.issuer_client import CA_FILE, FORM, Rig, failure
from tests.support.raw import Raw
from tests.support.signers import SUBJECTS, subject
from tests.support.tls import CA, NOW, PLANNER
from tests.support.web import AUTHORITY, Web, demanding, https, page, sending

if TYPE_CHECKING:
    from tests.support.signers import Subject


async def test_a_get() -> None:
    with Web(sending(page(b'{"issuer":"x"}')), https()) as server:
        answer = await Rig().client.get(server.url("/a?b=c"), accept="application/jwk-set+json")
    assert (answer.status, answer.content_type, answer.json()) == (200, "application/json", {"issuer": "x"})
    head = server.requests[0].decode().split("\r\n")
    assert head[0] == "GET /a?b=c HTTP/1.1"
    assert sorted(head[1:]) == sorted([
        f"Host: localhost:{server.port}", "Accept: application/jwk-set+json", "Accept-Encoding: identity",
        "User-Agent: sidecar", "Connection: close", "", "",
    ])  # fmt: skip
    assert Answer is AnswerThere


async def test_a_post() -> None:
    with Web(sending(page(b"{}", status="400 Bad Request")), https()) as server:
        answer = await Rig().client.post(server.url("/token"), FORM, headers={"Authorization": "Basic YTpi"})
    assert (answer.status, answer.json()) == (400, {})
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert body == b"grant_type=client_credentials&client_secret=hush-hush&scope=a+b%26c%3Dd+%C3%BC"
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /token HTTP/1.1"
    assert sorted(lines[1:]) == sorted([
        f"Host: localhost:{server.port}", "Accept: application/json", "Accept-Encoding: identity",
        "User-Agent: sidecar", "Connection: close", "Authorization: Basic YTpi", f"Content-Length: {len(body)}",
        "Content-Type: application/x-www-form-urlencoded",
    ])  # fmt: skip


@pytest.mark.threat(21)
async def test_threat_21_a_redirect_is_an_answer() -> None:
    with Web(sending(page())) as elsewhere:
        with Web(sending(page(b"", f"Location: {elsewhere.url()}", status="307 Elsewhere")), https()) as server:
            answer = await Rig(plaintext=True).client.post(server.url(), FORM)
            assert answer.status == 307
        assert elsewhere.connections == 0


@pytest.mark.threat(21)
async def test_threat_21_no_variable_of_the_environment_leads_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with Raw() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            for variable in (name, name.lower()):
                monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "")
        with Web(sending(page()), https()) as server, Web(sending(page())) as plain:
            rig = Rig(plaintext=True)
            assert (await rig.client.get(server.url())).status == 200
            assert (await rig.client.get(plain.url())).status == 200
        assert proxy.connections == 0


async def test_no_cookie_is_kept() -> None:
    with Web(sending(page(b"{}", "Set-Cookie: a=b; Path=/")), https()) as server:
        rig = Rig()
        for _ in range(2):
            await rig.client.get(server.url())
    assert not any(b"cookie" in request.lower() for request in server.requests)


async def test_plaintext_is_refused_unless_it_is_asked_for() -> None:
    with Web(sending(page())) as server:
        error = await failure(Rig().client.post(server.url(), FORM))
        assert error.code is SourceCode.METADATA
        assert "unsafe_plaintext_issuer" in error.hint
        assert server.connections == 0
        rig = Rig(plaintext=True)
        assert (await rig.client.get(server.url())).status == 200
        error = await failure(rig.client.post(server.url(), FORM, mutual=True))
        assert error.code is SourceCode.METADATA
        assert server.connections == 1


@pytest.mark.parametrize(
    "url", ["ftp://localhost/hush-hush", "https://a:hush-hush@localhost/", "https://b/#hush-hush", ""]
)
async def test_urls_that_may_not_be_used(url: str) -> None:
    client = Rig(plaintext=True).client
    assert (await failure(client.get(url))).code is SourceCode.METADATA
    assert (await failure(client.post(url, FORM))).code is SourceCode.METADATA


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "hush-hush\r\nX: y"},
        {"Authorization": "hush-hush\n"},
        {"Authorization": "hush-hush\0"},
        {"Authorization": "hush-hush ü"},
        {"Authorization": ""},
        {"Authorization: hush-hush\r\nX": "y"},
        {"": "hush-hush"},
        {"host": "hush-hush"},
        {"Content-Length": "0"},
        {"Transfer-Encoding": "chunked"},
        {"Cookie": "hush-hush"},
        {"accept-encoding": "gzip"},
        {"Connection": "keep-alive"},
    ],
)
async def test_fields_that_would_be_something_else_are_not_sent(headers: dict[str, str]) -> None:
    with Web(sending(page()), https()) as server:
        error = await failure(Rig().client.post(server.url(), [], headers=headers))
    assert error.code is SourceCode.BAD_TOKEN
    assert server.connections == 0


async def test_a_form_with_what_is_no_text() -> None:
    error = await failure(Rig().client.post("https://localhost/", [("client_secret", "hush-hush\udcff")]))
    assert error.code is SourceCode.BAD_TOKEN


async def test_our_certificate_is_shown_where_it_is_meant_to_be() -> None:
    """Once to a server that demands it, never to one that would take it as well."""
    with Web(sending(page()), demanding()) as server:
        rig = Rig()
        assert (await rig.client.post(server.url(), FORM, mutual=True)).status == 200
        assert server.shown == [PLANNER.der[0]]
        assert server.versions == ["TLSv1.3"]
        for call in (rig.client.post(server.url(), FORM), rig.client.get(server.url())):
            assert (await failure(call)).code is SourceCode.TLS
        assert server.shown == [PLANNER.der[0]]
        assert len(server.requests) == 1


async def test_without_a_certificate_none_is_shown() -> None:
    client = IssuerClient(Reach(CA_FILE), {CA_FILE: AUTHORITY.pem}, Workers("test", 1, 1))
    assert (await failure(client.post("https://localhost", FORM, mutual=True))).code is SourceCode.SIGNING


@pytest.mark.parametrize(
    "key",
    [pytest.param(name, marks=pytest.mark.needs(*SUBJECTS[name][0])) for name in ("software", "tpm-file", "pkcs11")],
)
async def test_a_key_outside_of_this_process_signs_for_us(key: str) -> None:
    with subject(key, ec.SECP256R1) as made, Web(sending(page()), demanding()) as server:
        credentials, leaf = certified(made)
        client = IssuerClient(Reach(CA_FILE), {CA_FILE: AUTHORITY.pem}, Workers("test", 2, 4), credentials)
        for _ in range(2):
            assert (await client.post(server.url(), FORM, mutual=True)).status == 200
        assert server.shown == [leaf, leaf]
        del client, credentials
        gc.collect()  # contexts hold what was lent to them


def certified(made: Subject) -> tuple[Credentials, bytes]:
    """An identity for a key that is somewhere else."""
    path = SpiffeId(CA.domain, "/agent/planner/7")
    certificate = issue(CA.authority, made.signer.public_key, path, now=NOW, lifetime=HOUR)
    return Credentials(certificate.public_bytes(Encoding.PEM), ExternalKey(made.signer)), der(certificate)


async def test_contexts_are_made_once() -> None:
    with Web(sending(page()), https()) as server:
        rig = Rig()
        await rig.client.get(server.url())
        contexts = dict(rig.client._contexts._made)
        await rig.client.post(server.url(), FORM)
        await rig.client.post(server.url(), FORM, mutual=True)
        assert contexts.keys() == {False}
        assert rig.client._contexts._made[False] is contexts[False]


async def test_nothing_shows_itself() -> None:
    rig = Rig()
    assert "PRIVATE" not in repr(rig.client) + repr(vars(rig.client)) + repr(vars(rig.client._contexts))
