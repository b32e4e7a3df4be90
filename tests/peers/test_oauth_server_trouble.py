"""The authorisation server of the tests fails in the ways that it is told to, and changes its keys, and revokes."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.issuer import serve
from tests.support.oauth_clients import by_secret
from tests.support.oauth_world import SECRET, World, world_in

if TYPE_CHECKING:
    import httpx2

    from tests.support.processes import Site

pytestmark = pytest.mark.needs("oauth-server", "httpx2", "curl")


@pytest.fixture
def world(site: Site) -> World:
    return world_in(site)


# -- keys and revocation ----------------------------------------------------------------------------------------------


def test_keys_change_with_and_without_the_old_one(world: World) -> None:
    first = world.issuer.state()["kids"]
    old = world.token(user="basic", password=SECRET)
    second = world.issuer.rotate(keep=True)
    assert world.claims(old)[0]["kid"] == first[0]
    assert world.claims(world.token(user="basic", password=SECRET))[0]["kid"] == second
    third = world.issuer.rotate("ES384")
    with pytest.raises(KeyError):
        world.claims(old)
    header, _ = world.claims(world.token(user="basic", password=SECRET), algorithms=["ES384"])
    assert (header["kid"], header["alg"]) == (third, "ES384")
    assert world.issuer.state()["kids"] == [third]


def revoke(world: World, token: str, client: str = "basic") -> httpx2.Response:
    endpoint = world.metadata()["revocation_endpoint"]
    return world.client().post(endpoint, data={"token": token}, auth=(client, SECRET))


def test_its_tokens_are_revoked_by_the_client_that_has_them(world: World) -> None:
    world.issuer.add(by_secret("nosy", SECRET))
    answer = world.token(user="basic", password=SECRET)
    token, jti = answer.json()["access_token"], world.claims(answer)[1]["jti"]
    assert revoke(world, token, "nosy").json()["error"] == "invalid_request"
    assert world.issuer.revoked == []
    world.issuer.rotate()
    assert revoke(world, token).status_code == 200
    assert world.issuer.revoked == [jti]
    assert revoke(world, token).status_code == 200
    assert world.issuer.revoked == [jti]
    assert world.issuer.count("revocation") == 3


@pytest.mark.parametrize("alg", ["ES256", "ES384", "RS256", "PS256"])
def test_it_signs_with_what_it_is_told_to(site: Site, alg: str) -> None:
    world = World(site, serve(site, by_secret("basic", SECRET), alg=alg))
    assert world.claims(world.token(user="basic", password=SECRET), algorithms=[alg])[0]["alg"] == alg


def test_a_client_with_a_certificate_revokes_at_the_alias(world: World) -> None:
    token = world.token("planner", client_id="planner").json()["access_token"]
    endpoint = world.metadata()["mtls_endpoint_aliases"]["revocation_endpoint"]
    form = {"token": token, "client_id": "planner"}
    assert world.client().post(endpoint, data=form).status_code == 401
    assert world.issuer.revoked == []
    assert world.client("planner").post(endpoint, data=form).status_code == 200
    assert len(world.issuer.revoked) == 1


def test_it_may_refuse_to_revoke_a_jwt(site: Site) -> None:
    world = World(site, serve(site, by_secret("basic", SECRET), revoke_jwt=False))
    answer = revoke(world, world.token(user="basic", password=SECRET).json()["access_token"])
    assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_token_type")
    assert world.issuer.revoked == []


# -- faults -----------------------------------------------------------------------------------------------------------


def jwks(world: World) -> str:
    return f"{world.issuer.issuer}/jwks"


def test_a_fault_of_one_endpoint_is_none_of_the_others_and_ends(world: World) -> None:
    world.issuer.fault("500", "jwks")
    world.issuer.fault("html", "token")
    assert world.client().get(jwks(world)).status_code == 500
    answer = world.token(user="basic", password=SECRET)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html")
    world.issuer.ok("jwks")
    assert world.client().get(jwks(world)).json()["keys"]
    assert world.token(user="basic", password=SECRET).headers["content-type"] == "text/html"
    world.issuer.ok()
    assert world.claims(world.token(user="basic", password=SECRET))
    assert {each: world.issuer.count(each) for each in ("token", "jwks")} == {"token": 3, "jwks": 3}


def test_a_fault_may_last_so_many_requests(world: World) -> None:
    world.issuer.fault("500", times=2)
    assert [world.client().get(jwks(world)).status_code for _ in range(3)] == [500, 500, 200]


def test_an_answer_may_be_the_tests_own(world: World) -> None:
    world.issuer.fault("answer", "jwks", body='{"keys":[]}', status=203, type="text/plain")
    answer = world.client().get(jwks(world))
    assert (answer.status_code, answer.headers["content-type"], answer.json()) == (203, "text/plain", {"keys": []})


def test_a_redirect_is_counted_when_it_is_followed(world: World) -> None:
    world.issuer.fault("redirect", "jwks")
    answer = world.client().get(jwks(world))
    assert (answer.status_code, world.issuer.count("other")) == (307, 0)
    assert world.client().get(answer.headers["location"]).status_code == 404
    assert world.issuer.count("other") == 1
    world.issuer.fault("redirect", "jwks", location="https://elsewhere.example/", status=302)
    answer = world.client().get(jwks(world))
    assert (answer.status_code, answer.headers["location"]) == (302, "https://elsewhere.example/")


def test_slow_is_late_and_right(world: World) -> None:
    world.issuer.fault("slow", "jwks", delay=0.3)
    began = time.monotonic()
    assert world.client().get(jwks(world)).json()["keys"]
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize(("mode", "code", "got"), [("down", 56, b""), ("cut", 18, b'{"')])
def test_who_gets_no_whole_answer_is_told_so(world: World, mode: str, code: int, got: bytes) -> None:
    """CURLE_RECV_ERROR and CURLE_PARTIAL_FILE. Python's ssl would not tell a reset from an end."""
    world.issuer.fault(mode, "jwks")
    command = ["curl", "-sS", "--cacert", str(world.issuer.ca_file), jwks(world)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (code, got)
    assert (b"reset by peer" in done.stderr) == (mode == "down")


# CPython's own ssl leaves the socket of a handshake that is reset at once to the garbage collector; in this client too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_down_for_all_resets_open_connections_and_refuses_new_ones(world: World) -> None:
    import gc

    import httpx2

    client = world.client()
    assert client.get(jwks(world)).status_code == 200
    world.issuer.fault("down")
    with pytest.raises(httpx2.TransportError):
        client.get(jwks(world))
    with pytest.raises(httpx2.ConnectError):
        world.client().get(jwks(world))
    gc.collect()
    assert world.issuer.count("jwks") == 1
    world.issuer.ok()
    assert client.get(jwks(world)).status_code == 200


@pytest.mark.parametrize("mode", ["hang", "drip", "huge"])
def test_some_answers_never_end(world: World, mode: str) -> None:
    """It serves the others meanwhile, and stops when the client goes."""
    import httpx2

    world.issuer.fault(mode, "jwks")
    client = world.client(timeout=0.5)
    if mode == "hang":
        with pytest.raises(httpx2.ReadTimeout):
            client.get(jwks(world))
        return
    with client.stream("GET", jwks(world)) as answer:
        got, wanted = 0, 3 if mode == "drip" else 1 << 20
        for chunk in answer.iter_raw():
            got += len(chunk)
            if got >= wanted:
                break
        assert got >= wanted
        assert world.metadata()
    client.close()
    world.issuer.ok()
    assert world.client().get(jwks(world)).json()["keys"]


def test_an_unknown_fault_is_an_error(world: World) -> None:
    with pytest.raises(AssertionError, match="no such fault"):
        world.issuer.fault("dwon")
