from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from bench.certificates import CALLER, PEER

if TYPE_CHECKING:
    from pathlib import Path

    from bench.certificates import Certificates


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def names(path: Path) -> list[str]:
    extension = certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [str(name.value) for name in extension.value]


def test_both_ends_have_a_spiffe_id_and_nothing_else(certificates: Certificates) -> None:
    for name in (CALLER, PEER):
        assert names(certificates.certificate(name)) == [f"spiffe://example.org/agent/{name}/1"]


def test_the_copy_has_a_host_name_besides(certificates: Certificates) -> None:
    assert names(certificates.named) == ["spiffe://example.org/agent/tools/1", "tools", "127.0.0.1"]


def test_the_copy_is_of_the_same_authority_and_key(certificates: Certificates) -> None:
    plain, named = certificate(certificates.certificate(PEER)), certificate(certificates.named)
    named.verify_directly_issued_by(certificate(certificates.authority))
    assert named.public_key() == plain.public_key()
    san = ExtensionOID.SUBJECT_ALTERNATIVE_NAME
    assert [x for x in named.extensions if x.oid != san] == [x for x in plain.extensions if x.oid != san]


def test_private_keys_are_ours_alone(certificates: Certificates) -> None:
    for name in (CALLER, PEER):
        for path in (certificates.key(name), certificates.both(name)):
            assert path.stat().st_mode & 0o077 == 0
