"""The certificates of all proxies: those of `sidecar certs init`, and one more for who asks for a host name."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.load.tls import client_context
from bench.processes import HOST, ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from bench.load.tls import SSLContext

#: The identities of both ends, made by `sidecar certs init` and used by all proxies alike.
CALLER: Final = "planner"
PEER: Final = "tools"
TRUST_DOMAIN: Final = "example.org"


def spiffe_prefix(name: str) -> str:
    """What every instance of an agent's SPIFFE ID begins with."""
    return f"spiffe://{TRUST_DOMAIN}/agent/{name}/"


@dataclass(frozen=True, slots=True)
class Certificates:
    """The folder that `sidecar certs init` filled."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Self:
        """Makes an authority and both identities."""
        agents = [word for name in (CALLER, PEER) for word in ("--agent", name)]
        command = [sys.executable, "-m", "sidecar", "certs", "init", str(folder), *agents]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        made = cls(folder)
        for name in (CALLER, PEER):  # HAProxy wants both in one file
            made.both(name).touch(mode=0o600)
            made.both(name).write_bytes(made.certificate(name).read_bytes() + made.key(name).read_bytes())
        key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"the authority's key is {type(key).__name__}, not an EC key")
        leaf, authority = (
            x509.load_pem_x509_certificate(path.read_bytes()) for path in (made.certificate(PEER), made.authority)
        )
        made.named.write_bytes(add_names(leaf, authority, key).public_bytes(serialization.Encoding.PEM))
        return made

    @property
    def authority(self) -> Path:
        """The trust bundle, PEM."""
        return self.folder / "ca.crt"

    def certificate(self, name: str) -> Path:
        """The certificate, PEM."""
        return self.folder / name / "tls.crt"

    def key(self, name: str) -> Path:
        """The private key, PEM."""
        return self.folder / name / "tls.key"

    def context(self) -> SSLContext:
        """A TLS client that is the caller."""
        return client_context(self.authority, self.certificate(CALLER), self.key(CALLER))

    def both(self, name: str) -> Path:
        """Certificate and private key in one PEM file."""
        return self.folder / name / "both.pem"

    @property
    def named(self) -> Path:
        """The certificate of the accepting side with its host name and address beside its SPIFFE ID, for the same key.

        Some verify a peer by such a name or not at all.
        """
        return self.folder / PEER / "named.crt"


def add_names(leaf: x509.Certificate, authority: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """Issues a leaf again with the host name `PEER` and the loopback address beside its own names."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(leaf.subject)
        .issuer_name(authority.subject)
        .public_key(leaf.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(leaf.not_valid_before_utc)
        .not_valid_after(leaf.not_valid_after_utc)
    )
    for extension in leaf.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            names = [x509.DNSName(PEER), x509.IPAddress(ipaddress.ip_address(HOST))]
            value = x509.SubjectAlternativeName([*value, *names])
        builder = builder.add_extension(value, extension.critical)
    return builder.sign(key, hashes.SHA256())
