from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from sidecar.config.faults import ConfigCode, Refused
from sidecar.config.key_material import check_key_file
from sidecar.identity.bundle_fault import BundleCode
from sidecar.identity.spiffe import TrustDomain
from sidecar.identity.svid import CertificateCode
from sidecar.keys.errors import KeyCode
from sidecar.keys.protection import Protection
from tests.support.bundles import JWT_KEY, bundle_json
from tests.support.ca import (
    CLIENT_AUTH,
    DAY,
    HOUR,
    NOW,
    SERVER_AUTH,
    Ca,
    Identity,
    forge,
    key_pem,
    keypair,
    rsa_keypair,
)
from tests.support.configuration import VALID, Workspace, edit, line_of

if TYPE_CHECKING:
    from pathlib import Path

US = os.geteuid()
OUTBOUND = VALID[VALID.index("outbound:") : VALID.index("admin:")]
INBOUND = VALID[VALID.index("inbound:") : VALID.index("outbound:")]


def status(*, uid: int = US, gid: int = 12345, mode: int = 0o600) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 1, 1, 1, uid, gid, 0, 0, 0, 0))


def install(workspace: Workspace, identity: Identity) -> None:
    """Puts another identity into the workspace."""
    identity.write(workspace.folder, "planner")


# --- what is kept


def test_the_material_is_what_was_read(workspace: Workspace) -> None:
    material = workspace.load().material
    assert str(material.svid.id) == "spiffe://example.org/agent/planner/1"
    assert material.chain_pem == workspace.identity.chain_pem
    assert material.key.secrets.pem == workspace.identity.key_pem
    assert set(material.bundles) == {TrustDomain("example.org")}
    assert material.protection is Protection.SOFTWARE


@pytest.mark.threat(60)
def test_threat_60_the_key_is_in_no_repr(workspace: Workspace) -> None:
    loaded = workspace.load()
    body = workspace.identity.key_pem.splitlines()[1].decode()
    assert body.encode() in loaded.material.key.secrets.pem
    assert body not in repr(loaded)
    assert "PRIVATE" not in repr(loaded)


def test_bundles_cannot_be_changed(workspace: Workspace) -> None:
    with pytest.raises(AttributeError):
        workspace.load().material.bundles.clear()  # type: ignore[attr-defined]  # that is the point


@pytest.mark.parametrize("order", ["key first", "chain first", "key in the middle"])
def test_one_file_with_key_and_chain_named_twice(workspace: Workspace, order: str) -> None:
    identity = workspace.ca.intermediate().leaf()
    first, *rest = (Identity((each,), identity.key).chain_pem for each in identity.chain)
    blocks = {
        "key first": [identity.key_pem, first, *rest],
        "chain first": [first, *rest, identity.key_pem],
        "key in the middle": [*rest, identity.key_pem, first],
    }[order]
    path = workspace.folder / "all.pem"
    path.touch(mode=0o600)
    path.write_bytes(b"".join(blocks))
    material = workspace.load(edit("planner.crt", "all.pem", edit("planner.key", "all.pem"))).material
    assert material.chain_pem == identity.chain_pem
    assert material.key.secrets.pem == identity.key_pem


def test_p384(workspace: Workspace) -> None:
    install(workspace, workspace.ca.leaf(key=keypair("p384", curve=ec.SECP384R1)))
    assert workspace.load().material.svid.id == workspace.identity.id


def test_several_trust_domains(workspace: Workspace) -> None:
    (workspace.folder / "b.crt").write_bytes(Ca("b.org").pem)
    text = edit("    example.org: ca.crt\n", "    example.org: ca.crt\n    b.org: b.crt\n")
    assert set(workspace.load(text).material.bundles) == {TrustDomain("example.org"), TrustDomain("b.org")}


# --- bundles


@pytest.mark.threat(1)
@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (None, ConfigCode.FILE_MISSING, "does not exist"),
        (b"", BundleCode.EMPTY, "the bundle of example.org is empty"),
        (b"\n \n", BundleCode.EMPTY, "the bundle of example.org is empty"),
        (b"garbage", BundleCode.NOT_PEM, "the bundle is not PEM: it has no -----BEGIN CERTIFICATE----- line"),
        (b"{", BundleCode.DAMAGED_JSON, "the bundle is not JSON, though it begins with {"),
        (b"{}", BundleCode.NOT_KEY_SET, "the bundle has no list of keys"),
        (b'{"keys": []}', BundleCode.NO_CERTIFICATE, "no certificate in the bundle of example.org"),
        (b"\x00\xff" * 100, BundleCode.NOT_PEM, "the bundle is not PEM: it has no -----BEGIN CERTIFICATE----- line"),
    ],
)
def test_threat_1_a_bundle_that_is_none(
    workspace: Workspace, content: bytes | None, code: object, message: str
) -> None:
    """The file is named, nothing is loaded, and no other store of certificates takes its place."""
    path = workspace.folder / "ca.crt"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    fault = workspace.fault()
    assert (fault.code, fault.key) == (code, "identity.trust.example.org")
    assert fault.message == f"{path}: {message}"
    assert fault.line == line_of(VALID, "ca.crt")


@pytest.mark.threat(1)
def test_threat_1_a_bundle_that_may_not_be_read(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workspace.folder / "ca.crt"
    path.chmod(0)
    real = os.open

    def guarded(name: str, *rest: int) -> int:
        if name == str(path.resolve()):  # root may read everything
            raise PermissionError(13, "Permission denied")
        return real(name, *rest)

    monkeypatch.setattr(os, "open", guarded)
    fault = workspace.fault()
    assert (fault.code, fault.message) == (
        ConfigCode.FILE_UNREADABLE,
        f"{path}: cannot be read: permission denied",
    )


@pytest.mark.threat(1)
def test_threat_1_a_bundle_that_is_cut_short(workspace: Workspace) -> None:
    path = workspace.folder / "ca.crt"
    path.write_bytes(path.read_bytes()[:-100])
    fault = workspace.fault()
    assert (fault.code, fault.key) == (BundleCode.DAMAGED_PEM, "identity.trust.example.org")
    assert fault.message.startswith(f"{path}: the bundle is damaged: ")


@pytest.mark.parametrize("name", ["ca.crt", "bundle.json"])
def test_a_bundle_as_json_whatever_its_name(workspace: Workspace, name: str) -> None:
    expected = workspace.load().material.bundles
    (workspace.folder / name).write_bytes(bundle_json(JWT_KEY, workspace.ca.certificate))
    assert workspace.load(edit("ca.crt", name)).material.bundles == expected


def test_a_workload_is_no_authority(workspace: Workspace) -> None:
    (workspace.folder / "ca.crt").write_bytes(workspace.identity.chain_pem)
    assert workspace.fault().code is BundleCode.NOT_AUTHORITY


# --- certificate


@pytest.mark.parametrize(
    ("lifetime", "at", "code", "message"),
    [
        (HOUR, NOW + 2 * HOUR, CertificateCode.EXPIRED, "our certificate: a certificate has expired"),
        (HOUR, NOW - DAY, CertificateCode.NOT_YET_VALID, "our certificate: a certificate is not valid yet"),
    ],
)
def test_a_certificate_outside_of_its_time(
    workspace: Workspace, lifetime: float, at: float, code: object, message: str
) -> None:
    install(workspace, workspace.ca.leaf(lifetime=lifetime))
    (workspace.folder / "ca.crt").write_bytes(Ca(now=NOW - 2 * DAY).pem)
    workspace.now = at
    fault = workspace.fault()
    assert (fault.code, fault.key) == (code, "identity.certificate")
    assert fault.message == f"{workspace.folder / 'planner.crt'}: {message}"
    assert fault.hint


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", CertificateCode.EMPTY),
        (b"garbage", CertificateCode.NOT_PEM),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", CertificateCode.MALFORMED_CERTIFICATE),
    ],
)
def test_a_certificate_file_that_is_none(workspace: Workspace, content: bytes, code: object) -> None:
    path = workspace.folder / "planner.crt"
    path.write_bytes(content)
    fault = workspace.fault()
    assert (fault.code, fault.key) == (code, "identity.certificate")
    assert fault.message.startswith(f"{path}: ")


def test_a_certificate_for_an_rsa_key(workspace: Workspace) -> None:
    key = rsa_keypair()
    install(workspace, Identity((forge(workspace.ca.signer, key.public_key()),), key))
    assert {(fault.code, fault.key) for fault in workspace.faults()} == {
        (CertificateCode.KEY_UNSUPPORTED, "identity.certificate"),
        (KeyCode.UNSUPPORTED, "identity.key"),
    }


def test_our_own_trust_domain_has_to_be_trusted(workspace: Workspace) -> None:
    install(workspace, Ca("own.org").leaf())
    fault = workspace.fault()
    assert (fault.code, fault.key) == (ConfigCode.OWN_TRUST_DOMAIN, "identity.trust")
    assert fault.message == "names no bundle for our own trust domain, own.org"
    assert fault.hint == "our certificate is that of spiffe://own.org/agent/planner/1; add own.org: PATH"


def test_our_own_chain_has_to_be_one_that_peers_accept(workspace: Workspace) -> None:
    install(workspace, Ca(key="stranger").leaf())
    fault = workspace.fault()
    assert (fault.code, fault.key) == (ConfigCode.OWN_CHAIN, "identity.certificate")
    assert fault.message.startswith(f"{workspace.folder / 'planner.crt'}: every peer would refuse our chain: ")
    assert fault.hint == f"is {workspace.folder / 'ca.crt'} the bundle of the authority that issued it?"


def test_a_missing_intermediate(workspace: Workspace) -> None:
    identity = workspace.ca.intermediate().leaf()
    install(workspace, Identity(identity.chain[:1], identity.key))
    assert workspace.fault().code is ConfigCode.OWN_CHAIN


@pytest.mark.parametrize(
    ("purpose", "text", "fine"),
    [
        (SERVER_AUTH, VALID, False),
        (CLIENT_AUTH, VALID, False),
        (SERVER_AUTH, edit(OUTBOUND, ""), True),
        (CLIENT_AUTH, edit(INBOUND, ""), True),
        (SERVER_AUTH, edit(INBOUND, ""), False),
        (CLIENT_AUTH, edit(OUTBOUND, ""), False),
    ],
)
def test_the_certificate_serves_the_roles_that_are_used(
    workspace: Workspace, purpose: object, text: str, fine: bool
) -> None:
    key = keypair()
    install(workspace, Identity((forge(workspace.ca.signer, purposes=[purpose]),), key))
    if fine:
        assert workspace.load(text)
    else:
        fault = workspace.fault(text)
        assert (fault.code, fault.key) == (CertificateCode.WRONG_PURPOSE, "identity.certificate")


# --- key


@pytest.mark.threat(24)
def test_threat_24_a_key_that_is_not_the_certificate_s(workspace: Workspace) -> None:
    """As when the certificate was renewed before the key: nothing is loaded."""
    (workspace.folder / "planner.key").write_bytes(key_pem(keypair("another")))
    fault = workspace.fault()
    assert (fault.code, fault.key) == (CertificateCode.KEY_MISMATCH, "identity.key")
    assert fault.message == (
        f"{workspace.folder / 'planner.key'}: "
        "the key is not the one in the certificate of spiffe://example.org/agent/planner/1"
    )


def test_an_encrypted_key(workspace: Workspace) -> None:
    pem = keypair().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (workspace.folder / "planner.key").write_bytes(pem)
    fault = workspace.fault()
    assert (fault.code, fault.key) == (KeyCode.ENCRYPTED, "identity.key")
    assert fault.message == (
        f"{workspace.folder / 'planner.key'}: the private key is encrypted, and there is no way to give a passphrase"
    )


@pytest.mark.threat(60)
@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o601, 0o666, 0o777])
def test_threat_60_a_key_file_that_everybody_can_open(workspace: Workspace, mode: int) -> None:
    path = workspace.folder / "planner.key"
    path.chmod(mode)
    fault = workspace.fault()
    assert (fault.code, fault.key) == (ConfigCode.KEY_PERMISSIONS, "identity.key")
    assert fault.message == f"{path}: holds a private key and is open to everybody (mode {mode:04o})"
    assert fault.hint == "chmod 0600 it; for a Kubernetes secret set defaultMode: 0440 and the pod's fsGroup"


@pytest.mark.threat(60)
def test_threat_60_a_key_in_the_certificate_file_is_a_key_file(workspace: Workspace) -> None:
    """The chain may stand in a file that all can read; with a key in it, used or not, it may not."""
    path = workspace.folder / "planner.crt"
    path.chmod(0o644)
    assert workspace.load()
    path.write_bytes(path.read_bytes() + workspace.identity.key_pem)
    fault = workspace.fault()
    assert (fault.code, fault.key) == (ConfigCode.KEY_PERMISSIONS, "identity.certificate")


@pytest.mark.threat(60)
@pytest.mark.parametrize(
    "found",
    [
        status(),
        status(mode=0o400),
        status(mode=0o700),
        status(uid=0),
        status(uid=0, gid=os.getegid(), mode=0o440),
        status(uid=0, gid=os.getegid(), mode=0o640),
    ],
)
def test_threat_60_key_files_that_only_we_can_read(found: os.stat_result) -> None:
    check_key_file(found)


@pytest.mark.threat(60)
def test_threat_60_supplementary_groups_are_ours_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """How Kubernetes mounts a secret under fsGroup: root:fsGroup, mode 0440."""
    monkeypatch.setattr(os, "getgroups", lambda: [4000])
    check_key_file(status(uid=0, gid=4000, mode=0o440))
    with pytest.raises(Refused) as caught:
        check_key_file(status(uid=0, gid=4001, mode=0o440))
    assert str(caught.value) == "holds a private key and is open to group 4001 (mode 0440)"


@pytest.mark.threat(60)
@pytest.mark.parametrize(
    ("found", "code"),
    [
        (status(mode=0o640), ConfigCode.KEY_PERMISSIONS),
        (status(uid=0, mode=0o640), ConfigCode.KEY_PERMISSIONS),
        (status(uid=0, gid=os.getegid(), mode=0o660), ConfigCode.KEY_PERMISSIONS),
        (status(uid=0, gid=os.getegid(), mode=0o444), ConfigCode.KEY_PERMISSIONS),
        (status(uid=US + 4242), ConfigCode.KEY_OWNER),
        (status(uid=US + 4242, mode=0o644), ConfigCode.KEY_OWNER),
    ],
)
def test_threat_60_key_files_that_others_can_open(found: os.stat_result, code: ConfigCode) -> None:
    with pytest.raises(Refused) as caught:
        check_key_file(found)
    assert caught.value.code is code
    assert caught.value.hint


@pytest.mark.threat(60)
def test_threat_60_our_own_group_alone_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group may read only what root has given it: whoever else owns the file chose the group himself."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    check_key_file(status(uid=1000))
    with pytest.raises(Refused) as caught:
        check_key_file(status(uid=1000, gid=os.getegid(), mode=0o640))
    assert caught.value.code is ConfigCode.KEY_PERMISSIONS


# --- everything at once


@pytest.mark.threat(1)
def test_threat_1_every_file_is_looked_at(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    (tmp_path / "planner.crt").unlink()
    (tmp_path / "planner.key").write_bytes(b"garbage")
    (tmp_path / "planner.key").chmod(0o644)
    (tmp_path / "ca.crt").write_bytes(b"")
    assert [(fault.code, fault.line) for fault in workspace.faults(edit("name: in", "name: IN"))] == [
        (ConfigCode.FILE_MISSING, 3),
        (ConfigCode.KEY_PERMISSIONS, 4),
        (KeyCode.NO_KEY, 4),
        (BundleCode.EMPTY, 6),
        (ConfigCode.BAD_NAME, 8),
    ]


def test_sound_files_are_looked_at_though_others_are_not_named(workspace: Workspace) -> None:
    """A fault in one key of the section does not hide those in the files that the others name."""
    (workspace.folder / "ca.crt").write_bytes(b"")
    faults = workspace.faults(edit("  certificate: planner.crt\n", "", edit("  key: planner.key\n", "")))
    assert [fault.key for fault in faults] == [
        "identity.certificate",
        "identity.key",
        "identity.trust.example.org",
    ]
