from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from sidecar.devcerts import authority, files, identities, pem
from sidecar.devcerts.errors import DevCertsCode, DevCertsError, FolderError
from sidecar.devcerts.generate import GITIGNORE, Made, generate
from sidecar.devcerts.layout import Order
from sidecar.identity.bundle import TrustBundle
from sidecar.identity.issue import Authority
from sidecar.identity.peer import Role
from sidecar.identity.spiffe import TrustDomain
from sidecar.identity.svid import Svid
from sidecar.identity.verify import verify
from sidecar.keys import software

NOW = 1_800_000_000.0
DAY = 24 * 3600.0


def init(
    folder: Path,
    *agents: str,
    now: float = NOW,
    trust_domain: str = "example.org",
    instance: str = "1",
    new_keys: bool = False,
) -> Made:
    order = Order.parse(folder, agents, trust_domain=trust_domain, instance=instance, new_keys=new_keys)
    return generate(order, now)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(folder: Path, *agents: str, **rest: object) -> DevCertsCode:
    """Asserts that a run is refused, with a hint, and leaves every file as it was."""
    before = contents(folder)
    with pytest.raises(DevCertsError) as caught:
        init(folder, *agents, **rest)  # type: ignore[arg-type] # the options of `init`
    assert contents(folder) == before
    assert caught.value.hint
    assert "PRIVATE KEY" not in str(caught.value) + caught.value.hint
    return DevCertsCode(caught.value.code)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "certs"
    init(made, "planner", "tools")
    return made


def test_everything_fits_together(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    made = init(folder, "planner", "tools")
    domain = TrustDomain.parse("example.org")
    bundles = {domain: TrustBundle.parse(domain, (folder / "ca.crt").read_bytes(), NOW)}
    assert [str(one.id) for one in made.identities] == [
        "spiffe://example.org/agent/planner/1",
        "spiffe://example.org/agent/tools/1",
    ]
    for one in made.identities:
        svid = Svid.from_pem(one.place.certificate.read_bytes(), NOW)
        key = software.load(one.place.key.read_bytes())
        svid.check_key(key.public_key)
        assert isinstance(key.public_key.curve, ec.SECP256R1)
        assert (svid.id, svid.pin) == (one.id, one.pin)
        assert one.not_after == svid.not_after == NOW + 7 * DAY
        assert one.protection == "software"
        for role in Role:
            assert verify(svid.chain_der, bundles, role=role, now=NOW).id == one.id
    assert made.authority_not_after == NOW + 90 * DAY
    assert (made.authority_news, made.foreign_gitignore) == ("new", False)


@pytest.mark.threat(60)
def test_threat_60_keys_are_for_us_alone(folder: Path) -> None:
    modes = {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    assert modes == {
        ".gitignore": 0o644,
        "ca.crt": 0o644,
        "ca.key": 0o600,
        "planner": 0o700,
        "planner/tls.crt": 0o644,
        "planner/tls.key": 0o600,
        "tools": 0o700,
        "tools/tls.crt": 0o644,
        "tools/tls.key": 0o600,
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_folder_of_an_instance_is_for_us_alone_too(tmp_path: Path) -> None:
    init(tmp_path / "a" / "b", "planner", instance="2")
    for path in ("a", "a/b", "a/b/planner", "a/b/planner/2"):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == 0o700


def test_a_second_run_renews_certificates_and_keeps_keys(folder: Path) -> None:
    before = contents(folder)
    made = init(folder, "planner", now=NOW + 6 * DAY)
    after = contents(folder)
    assert {name for name in before if before[name] != after[name]} == {"planner/tls.crt"}
    assert made.identities[0].not_after == NOW + 13 * DAY
    assert (made.identities[0].news, made.authority_news) == ("key kept", "kept")


def test_an_expired_certificate_is_renewed(folder: Path) -> None:
    assert init(folder, "planner", now=NOW + 20 * DAY).identities[0].not_after == NOW + 27 * DAY


def test_new_keys_are_for_the_named_agents(folder: Path) -> None:
    before = contents(folder)
    made = init(folder, "planner", new_keys=True)
    after = contents(folder)
    assert {name for name in before if before[name] != after[name]} == {"planner/tls.crt", "planner/tls.key"}
    svid = Svid.from_pem(after["planner/tls.crt"], NOW)
    svid.check_key(software.load(after["planner/tls.key"]).public_key)
    assert made.identities[0].pin == svid.pin != Svid.from_pem(before["planner/tls.crt"], NOW).pin
    assert made.identities[0].news == "new key"


def test_an_agent_is_added_under_the_same_authority(folder: Path) -> None:
    before = contents(folder)
    init(folder, "rogue", instance="2")
    after = contents(folder)
    assert set(after) - set(before) == {"rogue/2/tls.crt", "rogue/2/tls.key"}
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("days", [60 + 0.001, 89, 90, 400], ids=str)
def test_an_authority_is_renewed_with_its_key_near_its_end(folder: Path, days: float) -> None:
    before = contents(folder)
    now = NOW + days * DAY
    made = init(folder, "planner", now=now)
    after = contents(folder)
    assert made.authority_news == "renewed, key kept"
    assert made.authority_not_after == pytest.approx(now + 90 * DAY, abs=1)
    assert after["ca.key"] == before["ca.key"]
    assert after["ca.crt"] != before["ca.crt"]
    # Whoever still trusts the old certificate, while it is valid, verifies what is issued under the new one.
    domain = TrustDomain.parse("example.org")
    for bundle, when in ((after["ca.crt"], now), *([(before["ca.crt"], now)] if days < 90 else [])):
        bundles = {domain: TrustBundle.parse(domain, bundle, when)}
        chain = Svid.from_pem(after["planner/tls.crt"], when).chain_der
        assert str(verify(chain, bundles, role=Role.CLIENT, now=when).id) == "spiffe://example.org/agent/planner/1"


def test_an_authority_stays_until_then(folder: Path) -> None:
    assert init(folder, "planner", now=NOW + 60 * DAY - 1).authority_news == "kept"


def test_a_clock_set_back_renews_the_authority(folder: Path) -> None:
    assert init(folder, "planner", now=NOW - DAY).authority_news == "renewed, key kept"


def test_keys_without_certificates_are_kept(folder: Path) -> None:
    before = contents(folder)
    for name in ("ca.crt", "planner/tls.crt", "tools/tls.crt"):
        (folder / name).unlink()
    made = init(folder, "planner", "tools")
    after = contents(folder)
    for name in ("ca.key", "planner/tls.key", "tools/tls.key"):
        assert after[name] == before[name]
    assert made.authority_news == "new certificate, key kept"
    assert [one.news for one in made.identities] == ["key kept", "key kept"]


@pytest.mark.parametrize("garbage", [b"", b"garbage", b"\xff\x00", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ca.crt", DevCertsCode.CERTIFICATE_INVALID),
        ("ca.key", DevCertsCode.KEY_INVALID),
        ("planner/tls.crt", DevCertsCode.CERTIFICATE_INVALID),
        ("planner/tls.key", DevCertsCode.KEY_INVALID),
    ],
)
@pytest.mark.parametrize("new_keys", [False, True])
def test_garbage_is_never_replaced(folder: Path, name: str, code: DevCertsCode, garbage: bytes, new_keys: bool) -> None:
    (folder / name).write_bytes(garbage)
    assert refused(folder, "tools", "planner", new_keys=new_keys) is code


def test_a_certificate_in_the_place_of_a_key_and_the_other_way_round(folder: Path) -> None:
    files_before = contents(folder)
    (folder / "planner/tls.key").write_bytes(files_before["planner/tls.crt"])
    assert refused(folder, "planner") is DevCertsCode.KEY_INVALID
    (folder / "tools/tls.crt").write_bytes(files_before["tools/tls.key"])
    assert refused(folder, "tools") is DevCertsCode.CERTIFICATE_INVALID


def test_a_certificate_that_is_not_der(folder: Path) -> None:
    (folder / "planner/tls.crt").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert refused(folder, "planner") is DevCertsCode.CERTIFICATE_INVALID


def test_two_certificates_in_a_file(folder: Path) -> None:
    path = folder / "ca.crt"
    path.write_bytes(path.read_bytes() * 2)
    assert refused(folder, "planner") is DevCertsCode.CERTIFICATE_INVALID


def test_another_trust_domain(folder: Path) -> None:
    assert refused(folder, "planner", trust_domain="example.com") is DevCertsCode.TRUST_DOMAIN_FOREIGN


def test_the_authority_of_somebody_else(folder: Path, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    domain = TrustDomain.parse("example.org")
    root = Authority.create(domain, now=NOW)
    below = root.intermediate(now=NOW, lifetime=DAY, private_key=key)
    other = tmp_path / "other"
    init(other, "planner")
    (folder / "ca.key").write_bytes(pem.key_file(folder, key).data)
    (folder / "ca.crt").write_bytes(below.certificate.public_bytes(Encoding.PEM))
    assert refused(folder, "planner") is DevCertsCode.AUTHORITY_FOREIGN
    for name in ("ca.crt", "ca.key"):
        (folder / name).write_bytes((other / name).read_bytes())
    assert refused(folder, "planner") is DevCertsCode.CERTIFICATE_FOREIGN
    assert refused(folder, "planner", new_keys=True) is DevCertsCode.CERTIFICATE_FOREIGN


def test_a_plain_authority_without_a_trust_domain(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])
    date = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes()).not_valid_before_utc
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(date).not_valid_after(date.replace(year=date.year + 1))
    certificate = builder.sign(key, hashes.SHA256())
    (folder / "ca.key").write_bytes(pem.key_file(folder, key).data)
    (folder / "ca.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    assert refused(folder, "planner") is DevCertsCode.AUTHORITY_FOREIGN


def test_a_leaf_in_the_place_of_the_authority(folder: Path) -> None:
    for suffix in ("crt", "key"):
        (folder / f"ca.{suffix}").write_bytes((folder / f"planner/tls.{suffix}").read_bytes())
    assert refused(folder, "tools") is DevCertsCode.AUTHORITY_FOREIGN


def test_an_authority_with_the_wrong_key(folder: Path) -> None:
    (folder / "ca.key").write_bytes((folder / "tools/tls.key").read_bytes())
    assert refused(folder, "planner") is DevCertsCode.KEY_MISMATCH


def test_an_authority_without_its_key(folder: Path) -> None:
    (folder / "ca.key").unlink()
    assert refused(folder, "planner") is DevCertsCode.KEY_LOST


def test_an_authority_of_another_form(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    made = Authority.create(TrustDomain.parse("example.org"), now=NOW, private_key=key)
    parts = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "x"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "y"),
        ]
    )
    builder = x509.CertificateBuilder(
        parts,
        parts,
        key.public_key(),
        7,
        made.certificate.not_valid_before_utc,
        made.certificate.not_valid_after_utc,
        list(made.certificate.extensions),
    )
    (folder / "ca.key").write_bytes(pem.key_file(folder, key).data)
    (folder / "ca.crt").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    assert refused(folder, "planner") is DevCertsCode.AUTHORITY_FOREIGN


def test_the_certificate_of_another_identity(folder: Path) -> None:
    for suffix in ("crt", "key"):
        (folder / f"planner/tls.{suffix}").write_bytes((folder / f"tools/tls.{suffix}").read_bytes())
    assert refused(folder, "planner") is DevCertsCode.IDENTITY_OTHER
    assert refused(folder, "planner", new_keys=True) is DevCertsCode.IDENTITY_OTHER


@pytest.mark.parametrize(("name", "code"), [("swapped", DevCertsCode.KEY_MISMATCH), ("lost", DevCertsCode.KEY_LOST)])
def test_a_key_that_is_not_the_certificate_s(folder: Path, name: str, code: DevCertsCode) -> None:
    path = folder / "planner/tls.key"
    if name == "lost":
        path.unlink()
    else:
        path.write_bytes((folder / "tools/tls.key").read_bytes())
    assert refused(folder, "planner") is code
    assert init(folder, "planner", new_keys=True).identities[0].news == "new key"


@pytest.mark.threat(60)
@pytest.mark.parametrize("bits", [0o640, 0o644, 0o604, 0o660])
def test_threat_60_a_key_that_others_can_read_is_not_kept(folder: Path, bits: int) -> None:
    path = folder / "planner/tls.key"
    path.chmod(bits)
    assert refused(folder, "planner") is DevCertsCode.KEY_EXPOSED
    init(folder, "planner", new_keys=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.threat(60)
def test_threat_60_an_authority_s_key_that_others_can_read_is_not_used(folder: Path) -> None:
    (folder / "ca.key").chmod(0o644)
    assert refused(folder, "planner", new_keys=True) is DevCertsCode.KEY_EXPOSED


def test_a_key_of_another_kind(folder: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "planner/tls.key").write_bytes(data)
    assert refused(folder, "planner") is DevCertsCode.KEY_INVALID


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(DevCertsError) as caught:
        init(tmp_path / "x", "planner")
    assert caught.value.code is DevCertsCode.NOT_A_FOLDER


def test_an_agent_s_folder_that_is_a_file(folder: Path) -> None:
    (folder / "other").write_text("")
    assert refused(folder, "planner", "other") is DevCertsCode.NOT_A_FOLDER


def test_a_run_beside_another_one(folder: Path) -> None:
    with files.sole(folder), pytest.raises(FolderError) as caught:
        init(folder, "planner")
    assert caught.value.code is DevCertsCode.BUSY


def test_rules_for_git_are_written_once_and_left_alone(folder: Path) -> None:
    assert (folder / ".gitignore").read_bytes() == GITIGNORE
    (folder / ".gitignore").write_text("*.key\n")
    assert init(folder, "planner").foreign_gitignore
    assert (folder / ".gitignore").read_text() == "*.key\n"


def test_the_repository_s_own_folder_has_the_same_rules() -> None:
    own = Path(__file__).parents[3] / "certs-dev"
    assert (own / ".gitignore").read_bytes() == GITIGNORE
    assert "sidecar certs init certs-dev --agent planner --agent tools" in (own / "README.md").read_text()


def test_the_numbers_that_are_promised() -> None:
    assert identities.LIFETIME == 7 * DAY
    assert authority.RENEW_BEFORE == 30 * DAY
