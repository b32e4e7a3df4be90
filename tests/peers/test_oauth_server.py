"""The authorisation server that other tests rely on does what they think it does, asked by clients that are not ours."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ca import Ca
from tests.support.issuer import RESOURCE, serve
from tests.support.machine import PARTS
from tests.support.oauth_clients import base64url, by_key, by_secret, by_uri_san
from tests.support.oauth_server import FOLDER, ROOT, SOURCES
from tests.support.oauth_world import KEYS, SECRET, World, assertion, shown, world_in
from tests.support.processes import PLANNER, listens, now

if TYPE_CHECKING:
    from tests.support.processes import Site

pytestmark = pytest.mark.needs("oauth-server", "httpx2", "curl")


@pytest.fixture
def world(site: Site) -> World:
    return world_in(site)


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_the_metadata_is_the_same_at_both_places_and_names_a_second_port(world: World) -> None:
    port, mtls = world.issuer.port, world.issuer.mtls_port
    metadata = world.metadata()
    other = world.client().get(f"{world.issuer.issuer}/.well-known/openid-configuration").json()
    assert metadata == other
    assert metadata["issuer"] == world.issuer.issuer == f"https://localhost:{port}"
    assert metadata["token_endpoint"] == f"https://localhost:{port}/token"
    assert metadata["mtls_endpoint_aliases"] == {
        "token_endpoint": f"https://localhost:{mtls}/token",
        "revocation_endpoint": f"https://localhost:{mtls}/token/revocation",
    }
    assert metadata["tls_client_certificate_bound_access_tokens"] is True


def test_a_certificate_of_the_authority_with_that_name_gets_a_token_bound_to_it(world: World) -> None:
    answer = world.token("planner", client_id="planner")
    header, claims = world.claims(answer)
    assert header == {"alg": "ES256", "typ": "at+jwt", "kid": world.issuer.state()["kids"][0]}
    assert claims["cnf"] == {"x5t#S256": base64url(shown(world.site, "planner"))}
    [asked] = [request for request in world.issuer.state()["requests"] if request["endpoint"] == "token"]
    assert (asked["listener"], asked["tls"]) == ("mtls", "TLSv1.3")
    assert asked["certificate"] == shown(world.site, "planner").hex()
    assert (claims["sub"], claims["client_id"], claims["scope"]) == ("planner", "planner", "tools:read")
    assert claims["exp"] - claims["iat"] == answer.json()["expires_in"] == 300
    token = world.issuer.state()["tokens"][-1]
    assert (token["client_id"], token["method"], token["jti"]) == ("planner", "tls_client_auth", claims["jti"])


def test_curl_gets_it_too(world: World) -> None:
    certificate, key = (str(world.site.path(f"planner.{end}")) for end in ("crt", "key"))
    data = ("grant_type=client_credentials", "client_id=planner", f"resource={RESOURCE}")
    done = subprocess.run(
        [
            *("curl", "-sS", "--cacert", world.issuer.ca_file, "--cert", certificate, "--key", key),
            *(word for each in data for word in ("--data-urlencode", each)),
            f"https://localhost:{world.issuer.mtls_port}/token",
        ],
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert json.loads(done.stdout)["token_type"] == "Bearer"


def test_a_registered_certificate_that_nobody_issued_gets_a_token_bound_to_it(world: World) -> None:
    _, claims = world.claims(world.token("loner", client_id="loner"))
    assert claims["cnf"] == {"x5t#S256": base64url(shown(world.site, "loner"))}


@pytest.mark.parametrize("algorithm", ["ES256", "ES384"])
def test_a_signed_assertion_gets_a_token(world: World, algorithm: str) -> None:
    _, claims = world.claims(world.token(**assertion(world.issuer, algorithm)))
    assert claims["client_id"] == "keyed"
    assert "cnf" not in claims


@pytest.mark.parametrize(
    "form", [{"user": "basic", "password": SECRET}, {"client_id": "post", "client_secret": SECRET}]
)
def test_a_secret_gets_a_token(world: World, form: dict[str, str]) -> None:
    _, claims = world.claims(world.token(**form))
    assert claims["client_id"] in {"basic", "post"}
    assert "cnf" not in claims


def test_an_assertion_is_bound_to_the_certificate_if_the_client_asks_for_it(world: World) -> None:
    world.issuer.add(by_key("keyed", KEYS["ES256"].public_key(), bound=True))
    _, claims = world.claims(world.token("planner", **assertion(world.issuer)))
    assert claims["cnf"].keys() == {"x5t#S256"}
    refused = world.token(**assertion(world.issuer))
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")


def test_who_shows_no_or_another_certificate_is_refused(world: World) -> None:
    world.site.identity("other")
    world.site.identity("stranger", "/agent/planner/1", ca=Ca(key="strangers", now=now()))
    asked = {
        "none": world.token(client_id="planner"),
        "another name": world.token("other", client_id="planner"),
        "another authority": world.token("stranger", client_id="planner"),
        "another self-signed": world.token("planner", client_id="loner"),
    }
    said = {why: (answer.status_code, answer.json()["error"]) for why, answer in asked.items()}
    assert said == dict.fromkeys(asked, (401, "invalid_client"))
    assert [error["description"] for error in world.issuer.state()["errors"]] == [
        "client certificate was not provided",
        "certificate subject value does not match the registered one",
        "client certificate was not verified",
        "unregistered client certificate provided",
    ]


@pytest.mark.parametrize("changed", [{"aud": "https://elsewhere.example"}, {"exp": 1}, {"iss": "basic"}])
def test_a_wrong_assertion_is_refused(world: World, changed: dict[str, Any]) -> None:
    answer = world.token(**assertion(world.issuer, **changed))
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


def test_an_assertion_serves_once_even_if_the_keys_change(world: World) -> None:
    form = assertion(world.issuer)
    assert world.token(**form).status_code == 200
    world.issuer.rotate()
    assert world.token(**form).json()["error"] == "invalid_client"


def test_an_unknown_resource_is_refused_and_an_unknown_scope_left_out(world: World) -> None:
    answer = world.token("planner", client_id="planner", resource="https://elsewhere.example")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_target")
    answer = world.token("planner", client_id="planner", scope="tools:write tools:destroy")
    assert answer.json()["scope"] == "tools:write"


def test_resources_claims_and_lives_are_as_the_test_says(site: Site) -> None:
    resources = {RESOURCE: {"scope": "tools:read", "audience": "tools", "ttl": 60}, "urn:o": {"format": "opaque"}}
    issuer = serve(site, by_secret("basic", SECRET), resources=resources, claims={"basic": {"team": "red"}}, ttl=30)
    world, who = World(site, issuer), {"user": "basic", "password": SECRET}
    _, claims = world.claims(world.token(**who), audience="tools")
    assert (claims["team"], claims["exp"] - claims["iat"]) == ("red", 60)
    opaque = world.token(**who, resource="urn:o").json()
    assert "." not in opaque["access_token"]
    assert opaque["expires_in"] == 30
    issuer.set_ttl(7)
    assert world.token(**who, resource="urn:o").json()["expires_in"] == 7


def test_its_clock_may_be_wrong(world: World) -> None:
    import jwt

    world.issuer.set_clock(3600)
    answer = world.token(user="basic", password=SECRET)
    with pytest.raises(jwt.ImmatureSignatureError):
        world.claims(answer)
    _, claims = world.claims(answer, options={"verify_iat": False})
    assert 3590 < claims["iat"] - now() < 3610


# -- deployments ------------------------------------------------------------------------------------------------------


def test_one_port_may_do_for_everybody(site: Site) -> None:
    site.identity("planner")
    issuer = serve(site, by_uri_san("planner", PLANNER), by_secret("basic", SECRET), aliases=False)
    world = World(site, issuer)
    assert "mtls_endpoint_aliases" not in world.metadata()
    assert not listens(issuer.mtls_port)
    assert "cnf" in world.claims(world.token("planner", client_id="planner"))[1]
    assert "cnf" not in world.claims(world.token(user="basic", password=SECRET))[1]


def test_an_issuer_may_have_a_path(site: Site) -> None:
    site.identity("planner")
    issuer = serve(site, by_uri_san("planner", PLANNER), path="/realms/one")
    world, base = World(site, issuer), f"https://localhost:{issuer.port}"
    metadata = world.metadata()
    assert metadata["issuer"] == issuer.issuer == f"{base}/realms/one"
    assert world.client().get(f"{issuer.issuer}/.well-known/openid-configuration").json() == metadata
    assert metadata["jwks_uri"] == f"{base}/realms/one/jwks"
    assert world.claims(world.token("planner", client_id="planner"))[1]["iss"] == issuer.issuer
    for path in ("/jwks", "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"):
        assert world.client().get(base + path).status_code == 404, path


def test_it_may_know_no_tls_1_3(site: Site) -> None:
    site.identity("planner")
    issuer = serve(site, by_uri_san("planner", PLANNER), mtls_max_version="TLSv1.2")
    assert World(site, issuer).token("planner", client_id="planner").status_code == 200
    assert issuer.state()["requests"][-1]["tls"] == "TLSv1.2"


def test_a_certificate_for_another_name_is_noticed(site: Site) -> None:
    import httpx2

    world = World(site, serve(site, names=("elsewhere.example",)))
    with pytest.raises(httpx2.ConnectError, match="Hostname mismatch"):
        world.metadata()


def test_it_comes_back_with_the_keys_it_had(world: World) -> None:
    kids = world.issuer.state()["kids"]
    world.issuer.stop()
    assert not listens(world.issuer.port)
    assert not listens(world.issuer.mtls_port)
    world.issuer.start()
    assert world.issuer.state()["kids"] == kids


# -- what it is made of -----------------------------------------------------------------------------------------------


def test_the_folder_is_the_one_that_the_list_of_parts_names() -> None:
    kind, folder, how = PARTS["oauth-server"]
    assert (kind, ROOT / folder, how) == ("folder", FOLDER, ".venv/bin/python -m tests.support.oauth_server")


def test_every_package_is_pinned_by_a_hash_and_by_no_place() -> None:
    lock = json.loads((SOURCES / "package-lock.json").read_text())
    packages = {path: package for path, package in lock["packages"].items() if path}
    assert "node_modules/oidc-provider" in packages
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert not any("resolved" in package for package in packages.values())
    assert "--hash=sha256:" in (SOURCES / "requirements.txt").read_text()
