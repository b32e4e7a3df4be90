"""Clients that are not ours, of the authorisation server of `tests.support.issuer`: httpx2 and PyJWT."""

from __future__ import annotations

import hashlib
import ssl
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.ca import DAY, Identity, Signer, der, forge, keypair, name
from tests.support.issuer import RESOURCE, Issuer, serve
from tests.support.oauth_clients import by_key, by_secret, by_self_signed, by_uri_san
from tests.support.processes import PLANNER, Site, SSLContext, now

if TYPE_CHECKING:
    import httpx2

#: What "keyed" signs its assertions with, by algorithm.
KEYS = {"ES256": keypair("client"), "ES384": keypair("client of 384 bits", curve=ec.SECP384R1)}
SECRET = "a secret that only this test and its server know"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass
class World:
    """A server, and clients of it that show the identity of that name, or none."""

    site: Site
    issuer: Issuer

    def client(self, identity: str | None = None, timeout: float = 20) -> httpx2.Client:
        import httpx2

        context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.issuer.ca_file)
        if identity is not None:
            context.load_cert_chain(self.site.path(f"{identity}.crt"), self.site.path(f"{identity}.key"))
        made = httpx2.Client(verify=context, timeout=timeout, trust_env=False)
        self.site.owns(made.close)
        return made

    def metadata(self) -> dict[str, Any]:
        """RFC 8414 3.1: the issuer's own path comes last."""
        base = f"https://localhost:{self.issuer.port}/.well-known/oauth-authorization-server"
        found: dict[str, Any] = self.client().get(base + self.issuer.path).json()
        return found

    def token(self, identity: str | None = None, /, **form: str) -> httpx2.Response:
        """Asks for a token as the metadata says it is done, with the identity's certificate if one is named."""
        metadata = self.metadata()
        endpoints = metadata if identity is None else metadata.get("mtls_endpoint_aliases", metadata)
        more: dict[str, Any] = {"auth": (form.pop("user"), form.pop("password"))} if "user" in form else {}
        data = {"grant_type": "client_credentials", "resource": RESOURCE, "scope": "tools:read"} | form
        return self.client(identity).post(endpoints["token_endpoint"], data=data, **more)

    def claims(self, answer: httpx2.Response, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Header and claims of the token in an answer, verified by the published keys."""
        import jwt

        assert answer.status_code == 200, (answer.text, self.issuer.state()["errors"])
        token = answer.json()["access_token"]
        header = jwt.get_unverified_header(token)
        keys = jwt.PyJWKSet.from_dict(self.client().get(self.metadata()["jwks_uri"]).json())
        options = {"audience": RESOURCE, "issuer": self.issuer.issuer, "algorithms": ["ES256"]} | more
        return header, jwt.decode(token, keys[header["kid"]], **options)


def shown(site: Site, identity: str) -> bytes:
    """The SHA-256 of the certificate that it shows."""
    text = site.path(f"{identity}.crt").read_bytes()
    return hashlib.sha256(der(x509.load_pem_x509_certificate(text))).digest()


def assertion(issuer: Issuer, algorithm: str = "ES256", **changed: Any) -> dict[str, str]:
    """What "keyed" proves itself with (RFC 7523 3)."""
    import jwt

    moment = int(now())
    claims = {"iss": "keyed", "sub": "keyed", "aud": issuer.issuer, "iat": moment, "exp": moment + 60}
    claims |= {"jti": str(uuid.uuid4())} | changed
    signed = jwt.encode(claims, KEYS[algorithm], algorithm)
    return {"client_assertion_type": ASSERTION, "client_assertion": signed}


def world_in(site: Site) -> World:
    """A server with a client of each kind: "planner" by its name, "loner" by its certificate, which no authority issued,
    "keyed" by an assertion, "basic" and "post" by a secret.
    """
    site.identity("planner")
    key = keypair("the loner's")
    loner = forge(
        Signer(name("loner"), key), key.public_key(), subject="loner", not_before=now() - DAY, not_after=now() + DAY
    )
    Identity((loner,), key).write(site.folder, "loner")
    clients = [
        by_uri_san("planner", PLANNER),
        by_self_signed("loner", loner),
        by_key("keyed", *(key.public_key() for key in KEYS.values())),
        by_secret("basic", SECRET),
        by_secret("post", SECRET, method="client_secret_post"),
    ]
    return World(site, serve(site, *clients))
