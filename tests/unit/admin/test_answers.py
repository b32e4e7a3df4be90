from __future__ import annotations

import json

import pytest

from sidecar.admin import answers as module
from sidecar.admin.answers import Answer, GivenToken, Later, NoToken, admin_routes, answer, health_routes
from tests.support.status import CANARY, FakeStatus


@pytest.fixture
def status() -> FakeStatus:
    return FakeStatus()


def asked(status: FakeStatus, path: str, method: str = "GET", *, health: bool = False) -> tuple[int, dict[str, object]]:
    found, _ = answer((health_routes if health else admin_routes)(status), method.encode(), path.encode())
    assert isinstance(found, Answer)
    assert found.content_type == "application/json"
    return found.status, json.loads(found.body)


def test_a_live_process_says_so_even_when_it_is_not_ready(status: FakeStatus) -> None:
    status.reason = "draining"
    assert asked(status, "/live") == (200, {"live": True})


def test_ready_gives_the_reason_why_not(status: FakeStatus) -> None:
    assert asked(status, "/ready") == (200, {"ready": True})
    status.reason = "identity_expired"
    assert asked(status, "/ready") == (503, {"ready": False, "reason": "identity_expired"})


def test_metrics_come_in_their_own_format(status: FakeStatus) -> None:
    found, _ = answer(health_routes(status), b"GET", b"/metrics")
    assert isinstance(found, Answer)
    assert found.status == 200
    assert found.content_type.startswith("text/plain; version=")
    assert b'sidecar_connections{direction="inbound"} 2.0' in found.body


def test_operators_see_configuration_identities_and_connections(status: FakeStatus) -> None:
    assert asked(status, "/config") == (200, {"version": 1, "access_log": None})
    assert asked(status, "/certs") == (200, {"certs": status.certs()})
    assert asked(status, "/connections") == (
        200,
        {"connections": [{"listener": "tools", "number": n} for n in range(2)], "truncated": False},
    )


def test_a_list_of_connections_is_bounded_and_says_so(status: FakeStatus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHOWN_CONNECTIONS", 3)
    status.live = 3
    assert asked(status, "/connections")[1]["truncated"] is False
    status.live = 4
    content = asked(status, "/connections")[1]
    assert content["truncated"] is True
    assert len(list(content["connections"])) == 3  # type: ignore[call-overload] - it is a list


def test_draining_is_asked_for_by_post_only(status: FakeStatus) -> None:
    assert asked(status, "/drain")[0] == 405
    assert status.drains == 0
    assert asked(status, "/drain", "POST") == (202, {"draining": True})
    assert status.drains == 1


@pytest.mark.parametrize(
    ("path", "method", "status_code", "allow"),
    [
        ("/", "GET", 404, b""),
        ("/metrics/", "GET", 404, b""),
        ("/LIVE", "GET", 404, b""),
        ("//live", "GET", 404, b""),
        ("/live%00", "GET", 404, b""),
        ("", "CONNECT", 404, b""),
        ("*", "OPTIONS", 404, b""),
        ("/live", "POST", 405, b"GET, HEAD"),
        ("/config", "DELETE", 405, b"GET, HEAD"),
        ("/live", "get", 405, b"GET, HEAD"),
        ("/drain", "PUT", 405, b"POST"),
        ("/tokens", "POST", 405, b"GET, HEAD"),
        ("/tokens/mesh", "GET", 405, b"POST"),
        ("/tokens/mesh", "HEAD", 405, b"POST"),
        ("/tokens/mesh", "PUT", 405, b"POST"),
        ("/tokens/", "POST", 404, b""),
        ("/tokens/Mesh", "POST", 404, b""),
        ("/tokens/mesh/", "POST", 404, b""),
        ("/tokens/mesh/x", "POST", 404, b""),
        ("/tokens/mesh%0a", "POST", 404, b""),
        ("/tokens/mesh\n", "POST", 404, b""),
        ("/tokens/m\u00e9sh", "POST", 404, b""),
        ("/tokens/" + 64 * "a", "POST", 404, b""),
        ("/tokens/../config", "GET", 404, b""),
        ("//tokens/mesh", "POST", 404, b""),
        ("/Tokens/mesh", "POST", 404, b""),
    ],
)
def test_anything_else_is_not_there_or_not_allowed(
    status: FakeStatus, path: str, method: str, status_code: int, allow: bytes
) -> None:
    found, allowed = answer(admin_routes(status), method.encode(), path.encode())
    assert isinstance(found, Answer)
    assert status.asked == []
    assert (found.status, allowed) == (status_code, allow)


@pytest.mark.threat(25)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
@pytest.mark.parametrize(
    "path",
    [
        "/live",
        "/ready",
        "/metrics",
        "/config",
        "/certs",
        "/connections",
        "/drain",
        "/tokens",
        "/tokens/mesh",
        "/x",
    ],
)
def test_threat_25_the_health_listener_tells_and_changes_nothing_more(
    status: FakeStatus, method: str, path: str
) -> None:
    found, _ = answer(health_routes(status), method.encode(), path.encode())
    assert isinstance(found, Answer)
    if path in {"/live", "/ready", "/metrics"}:
        assert found.status == (200 if method in {"GET", "HEAD"} else 405)
    else:
        assert found.status == 404
    assert status.drains == 0


async def given(status: FakeStatus, name: str) -> tuple[Answer, dict[str, object]]:
    found, allow = answer(admin_routes(status), b"POST", f"/tokens/{name}".encode())
    assert isinstance(found, Later)
    assert allow == b""
    assert status.asked == [], "nothing was begun"
    made = await found.make()
    return made, json.loads(made.body)


def test_operators_see_the_sources_of_tokens(status: FakeStatus) -> None:
    assert asked(status, "/tokens") == (200, status.tokens())


@pytest.mark.parametrize("name", ["mesh", "a", "-", "0-z", 63 * "a"])
async def test_a_token_is_given_to_whoever_asks_by_post(status: FakeStatus, name: str) -> None:
    made, content = await given(status, name)
    assert status.asked == [name]
    if name == "mesh":
        assert (made.status, content) == (200, {"token": CANARY})
    else:
        assert (made.status, content) == (404, {"error": "not_found"})


async def test_a_token_that_cannot_be_had_is_a_code(status: FakeStatus) -> None:
    status.given = NoToken("issuer_unreachable")
    made, content = await given(status, "mesh")
    assert (made.status, content) == (503, {"error": "issuer_unreachable"})


@pytest.mark.threat(21)
async def test_threat_21_no_repr_shows_a_token(status: FakeStatus) -> None:
    made, _ = await given(status, "mesh")
    assert CANARY.encode() in made.body
    assert CANARY not in repr(made) + repr(status.given) + repr(GivenToken(CANARY))
