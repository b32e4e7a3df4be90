"""Tokens of an issuer (RFC 9068, ES256), bound to the calling side's certificate (RFC 8705 3.1), which comes from a file.

The issuer is its key, and a web server that has the JWK Set; nobody asks it for a token while the proxies are measured.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from bench.certificates import CALLER, spiffe_prefix
from bench.load.probe import answers
from bench.processes import HOST
from bench.tokens.kind import AUDIENCE, SOURCE, Tokens
from sidecar.clock import Clock

if TYPE_CHECKING:
    from pathlib import Path

    from bench.site import Site

ISSUER: Final = "https://issuer.example.org"
#: Seconds that the one token lives: longer than any run, and what a configuration may allow at the most.
LIFETIME: Final = 24 * 3600
_SCOPE: Final = "tools.read"


@dataclass(frozen=True, slots=True)
class Issued:
    """One token for all rounds; the accepting side asks for its scope, too."""

    name: str = "issuer"
    title: str = "with an issuer's token"

    def begin(self, site: Site) -> Tokens:
        """Makes an issuer with one key, and has it sign a token."""
        key, key_id = ec.generate_private_key(ec.SECP256R1()), secrets.token_urlsafe(8)
        port = _serve(site, {"keys": [_public(key, key_id)]})
        leaf = x509.load_pem_x509_certificate(site.certificates.certificate(CALLER).read_bytes())
        path = site.crew.path("token")
        path.touch(mode=0o600)
        path.write_text(_token(key, key_id, leaf))
        lifetime = f"{LIFETIME}s"
        return Tokens(
            {"name": SOURCE, "kind": "file", "path": str(path), "max_lifetime": lifetime},
            {"issuer": "corp", "audience": AUDIENCE, "scopes": [_SCOPE], "max_lifetime": lifetime},
            [
                {
                    "name": "corp",
                    "issuer": ISSUER,
                    "jwks": f"http://{HOST}:{port}/jwks.json",
                    "unsafe_plaintext_issuer": True,
                }
            ],
        )


def _public(key: ec.EllipticCurvePrivateKey, key_id: str) -> dict[str, str]:
    """The public key as a JWK."""
    found = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**found, "kid": key_id, "alg": "ES256", "use": "sig"}


def _token(key: ec.EllipticCurvePrivateKey, key_id: str, leaf: x509.Certificate) -> str:
    digest = hashlib.sha256(leaf.public_bytes(Encoding.DER)).digest()
    now = int(Clock().wall())
    claims = {
        "iss": ISSUER,
        "sub": f"{spiffe_prefix(CALLER)}1",
        "aud": AUDIENCE,
        "client_id": CALLER,
        "iat": now,
        "exp": now + LIFETIME,
        "jti": secrets.token_urlsafe(16),
        "scope": _SCOPE,
        "cnf": {"x5t#S256": base64.urlsafe_b64encode(digest).rstrip(b"=").decode()},
    }
    return jwt.encode(claims, key, algorithm="ES256", headers={"typ": "at+jwt", "kid": key_id})


def _serve(site: Site, keys: dict[str, list[dict[str, str]]]) -> int:
    """Starts a web server for the keys on the core of the load; returns its port."""
    folder: Path = site.crew.path("issuer")
    folder.mkdir()
    (folder / "jwks.json").write_text(json.dumps(keys))
    port = site.crew.port()
    options = (str(port), "--bind", HOST, "--directory", folder)
    process = site.crew.start("issuer", site.crew.load_core, sys.executable, "-m", "http.server", *options)
    process.until(lambda: answers(port), "answered")
    return port
