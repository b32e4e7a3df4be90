"""Each kind of token: our configurations take it, and a token of it is one that the accepting side lets in."""

from __future__ import annotations

import hashlib
import json
import re
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from bench.peers.peer import Work
from bench.peers.sidecar import Sidecar
from bench.site import Running
from bench.tokens.issued import LIFETIME, Issued
from bench.tokens.kind import AUDIENCE
from bench.tokens.self_signed import SelfSigned
from bench.tokens.table import KINDS
from sidecar.config.load import load
from sidecar.tokens.claims import read_claims, read_header
from sidecar.tokens.jws import parse
from sidecar.tokens.keyset import read_keys, signature_holds

if TYPE_CHECKING:
    from bench.site import Site
    from bench.tokens.kind import Kind
    from sidecar.config.load import Loaded


@dataclass
class Recorder:
    """Takes the place of a site: starts no proxy, and reads the file that it would have been started with."""

    site: Site
    files: list[Path] = field(default_factory=list)

    def __getattr__(self, name: str) -> object:
        return getattr(self.site, name)

    def proxy(self, _: str, port: int, *command: object) -> Running:
        self.files.append(Path(str(command[-1])))
        return Running(port, ())


def both_sides(site: Site, ours: Sidecar) -> tuple[Loaded, Loaded]:
    """The accepting side's configuration and the calling side's, as a sidecar reads them."""
    recorder = Recorder(site)
    ours.inbound(recorder, Work.HTTP, 8_123)  # type: ignore[arg-type]
    ours.outbound(recorder, Work.HTTP, 8_443)  # type: ignore[arg-type]
    inner, outer = (load(file, now=time.clock_gettime(time.CLOCK_REALTIME)) for file in recorder.files)
    return inner, outer


@pytest.mark.needs("setpriv")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_rule_asks_for_the_token_that_every_request_goes_with(kind: Kind, site: Site) -> None:
    inner, outer = both_sides(site, Sidecar(rules=3, tokens=kind.begin(site)))
    required = [rule.token for entry in inner.config.inbound for rule in entry.allow]
    assert len(required) == 3
    assert all(each is not None and each.bound and each.audience == {AUDIENCE} for each in required)
    (entry,) = outer.config.outbound
    (source,) = outer.config.tokens
    assert entry.token == source.name
    assert source.keeping.cache


def test_without_tokens_nothing_is_said_of_them(site: Site) -> None:
    inner, outer = both_sides(site, Sidecar())
    assert all(rule.token is None for entry in inner.config.inbound for rule in entry.allow)
    assert all(entry.token is None for entry in outer.config.outbound)


def test_a_self_signed_token_needs_nothing_else(site: Site) -> None:
    SelfSigned().begin(site)
    assert site.crew.processes == []


@pytest.mark.needs("setpriv")
def test_an_issuers_token_is_signed_by_its_key_and_bound_to_the_caller(site: Site) -> None:
    given = Issued().begin(site)
    path = Path(given.source["path"])
    assert path.stat().st_mode & 0o777 == 0o600
    token = path.read_bytes()
    with urllib.request.urlopen(given.issuers[0]["jwks"], timeout=10) as answer:  # noqa: S310 - the server just started
        keys = read_keys(json.load(answer))
    jws = parse(token)
    header = read_header(jws.header, algorithms={"ES256"}, typ="at+jwt")
    assert any(signature_holds(token, key, "ES256") for key in keys.find(header.key_id, "ES256"))
    claims = read_claims(jws.claims)
    leaf = x509.load_pem_x509_certificate(site.certificates.certificate("planner").read_bytes())
    assert claims.bound_to == hashlib.sha256(leaf.public_bytes(Encoding.DER)).digest()
    assert (claims.issuer, claims.audience, claims.expires - claims.issued) == (
        given.issuers[0]["issuer"],
        AUDIENCE,
        LIFETIME,
    )
    assert set(given.requirement["scopes"]) <= claims.scopes


def test_kinds_are_told_apart_by_their_names() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert all(re.fullmatch(r"[a-z-]+", kind.name) for kind in KINDS)
