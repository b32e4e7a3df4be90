from __future__ import annotations

import hashlib
import itertools
import time
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import assume, given
from hypothesis import strategies as st

from sidecar.identity.bundle import TrustBundle
from sidecar.identity.peer import Role
from sidecar.identity.pins import Pin
from sidecar.identity.spiffe import TrustDomain
from sidecar.identity.verify import (
    MAX_CHAIN_BYTES,
    MAX_CHAIN_CERTIFICATES,
    MAX_LEAF_BYTES,
    Refusal,
    VerificationError,
    check_chain_size,
    verify,
)
from tests.support.ca import (
    DAY,
    HOUR,
    NOW,
    Ca,
    Signer,
    der,
    forge,
    forge_signing,
    keypair,
    name,
    resign,
    rsa_keypair,
)
from tests.unit.identity.corpus import CASES, Bad, rsa_public_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.identity.bundle import Bundles
    from sidecar.identity.peer import Peer

CA = Ca()
DEEP = CA.intermediate("upper").intermediate("lower").leaf()


def accepted(chain: Sequence[bytes], bundles: Bundles | None = None, role: Role = Role.CLIENT) -> Peer:
    return verify(chain, CA.bundles if bundles is None else bundles, role=role, now=NOW)


def refusal(bad: Bad) -> Refusal:
    with pytest.raises(VerificationError) as caught:
        verify(bad.chain, bad.bundles, role=bad.role, now=bad.now)
    return caught.value.code


def refusal_of(defect: str) -> Refusal:
    return refusal(CASES[defect][1]())


@pytest.mark.parametrize("defect", CASES)
def test_bad_chain_is_refused_for_its_defect(defect: str) -> None:
    assert refusal_of(defect) is CASES[defect][0]


def test_every_refusal_has_a_bad_chain() -> None:
    assert {code for code, _ in CASES.values()} == set(Refusal)


@pytest.mark.parametrize("role", Role)
def test_peer_is_what_the_chain_says(role: Role) -> None:
    identity = CA.leaf("/agent/tools/2", dns_names=["tools.internal"])
    peer = accepted(identity.der, role=role)
    assert str(peer.id) == "spiffe://example.org/agent/tools/2"
    assert peer.pin == Pin.of_certificate(identity.leaf)
    assert int(peer.serial, 16) == identity.leaf.serial_number
    assert peer.serial == peer.serial.lower()
    assert peer.leaf_sha256 == hashlib.sha256(identity.der[0]).digest()
    assert (peer.not_before, peer.not_after) == (NOW - 60, NOW + HOUR)


@pytest.mark.parametrize("key", [keypair("p384", curve=ec.SECP384R1), rsa_keypair()], ids=["p384", "rsa"])
def test_other_keys_are_as_good(key: ec.EllipticCurvePrivateKey) -> None:
    """As leaf, as intermediate and as authority."""
    assert accepted(CA.leaf(key=key).der)
    middle = forge_signing(CA.signer, key, "middle")
    assert accepted([der(forge(Signer(name("middle"), key))), der(middle)])
    root = forge_signing(Signer(name("root"), key), key, "root")
    bundle = TrustBundle(CA.domain, (root,))
    assert accepted([der(forge(Signer(name("root"), key)))], {CA.domain: bundle})


def test_names_other_than_the_uri_decide_nothing() -> None:
    names = [x509.DNSName("spiffe://example.org/agent/admin/1"), x509.RFC822Name("admin@example.org")]
    leaf = forge(CA.signer, names=names, subject="spiffe://example.org/agent/admin/1")
    assert str(accepted([der(leaf)]).id) == "spiffe://example.org/agent/planner/1"


def test_intermediates_may_come_in_any_order_and_with_the_root() -> None:
    leaf, *above = [*DEEP.der, der(CA.certificate)]
    for order in itertools.permutations(above):
        assert accepted([leaf, *order]).id == DEEP.id


def test_path_may_end_at_an_intermediate_in_the_bundle() -> None:
    """The bundle decides where trust begins: the root above is neither needed nor looked for."""
    bundle = TrustBundle(CA.domain, (DEEP.chain[1],))
    assert accepted(DEEP.der[:1], {CA.domain: bundle}).id == DEEP.id
    assert accepted(DEEP.der, {CA.domain: bundle}).id == DEEP.id
    with pytest.raises(VerificationError):
        accepted(DEEP.der[:1])


def test_longest_chain_is_accepted() -> None:
    ca = CA
    for number in range(MAX_CHAIN_CERTIFICATES - 1):
        ca = ca.intermediate(f"level {number}")
    chain = ca.leaf().der
    assert len(chain) == MAX_CHAIN_CERTIFICATES
    assert accepted(chain)


def test_largest_sizes_are_let_pass() -> None:
    check_chain_size([bytes(MAX_LEAF_BYTES)])
    check_chain_size([bytes(MAX_LEAF_BYTES), bytes(MAX_CHAIN_BYTES - MAX_LEAF_BYTES)])
    for chain in ([bytes(MAX_LEAF_BYTES + 1)], [b"", bytes(MAX_CHAIN_BYTES + 1)]):
        with pytest.raises(VerificationError):
            check_chain_size(chain)


def test_one_of_several_authorities_is_enough() -> None:
    old = forge_signing(CA.signer, keypair("old"), "old", not_after=NOW - 1)
    bundle = TrustBundle(CA.domain, (old, Ca(key="next").certificate, CA.certificate))
    assert accepted(CA.leaf().der, {CA.domain: bundle})


def test_times_are_those_of_the_whole_path() -> None:
    """not_after is the earliest and not_before the latest, the authority's included."""
    key = keypair("forged intermediate")
    middle = Signer(name("intermediate"), key)
    spans = {"leaf": (NOW - 30, NOW + 30), "middle": (NOW - 30, NOW + 30), "root": (NOW - 30, NOW + 30)}
    for narrow in spans:
        at = spans | {narrow: (NOW - 3, NOW + 5)}
        knobs = {part: {"not_before": begin, "not_after": end} for part, (begin, end) in at.items()}
        root = forge_signing(Signer(name("root"), keypair("root")), keypair("root"), "root", **knobs["root"])
        chain = [
            der(forge(middle, **knobs["leaf"])),
            der(forge_signing(Signer(name("root"), keypair("root")), key, "intermediate", **knobs["middle"])),
        ]
        peer = accepted(chain, {CA.domain: TrustBundle(CA.domain, (root,))})
        assert (peer.not_before, peer.not_after) == (NOW - 3, NOW + 5)


def test_validity_includes_both_ends() -> None:
    leaf = [der(forge(CA.signer, not_before=NOW - 30, not_after=NOW + 30))]
    for now in (NOW - 30, NOW + 30):
        assert verify(leaf, CA.bundles, role=Role.CLIENT, now=now).not_before <= now
    for now, code in ((NOW - 30.5, Refusal.NOT_YET_VALID), (NOW + 30.5, Refusal.EXPIRED)):
        assert refusal(Bad(leaf, CA.bundles, now=now)) is code


def test_domains_do_not_vouch_for_each_other() -> None:
    """A leaf for domain A under B's root is refused although both bundles are there, and the other way round."""
    one, two = Ca("one.example"), Ca("two.example")
    bundles = one.bundles | two.bundles
    assert accepted(one.leaf().der, bundles).id.trust_domain == one.domain
    for victim, impostor in ((one, two), (two, one)):
        forged = forge(impostor.signer, uris=[f"spiffe://{victim.domain}/agent/planner/1"])
        assert refusal(Bad([der(forged)], bundles)) is Refusal.AUTHORITY_UNKNOWN
        along = forge_signing(impostor.signer, keypair("along"), "along", uris=[f"spiffe://{victim.domain}"])
        leaf = forge(Signer(name("along"), keypair("along")), uris=[f"spiffe://{victim.domain}/agent/planner/1"])
        assert refusal(Bad([der(leaf), der(along)], bundles)) is Refusal.AUTHORITY_UNKNOWN


def test_authority_of_one_domain_under_the_name_of_another_is_refused() -> None:
    """The same authority in two bundles speaks for both domains only if the operator listed it for both."""
    shared = forge_signing(Signer(name("shared"), keypair("shared")), keypair("shared"), "shared", uris=[])
    leaf = [der(forge(Signer(name("shared"), keypair("shared"))))]
    other = TrustDomain("example.com")
    assert refusal(Bad(leaf, {other: TrustBundle(other, (shared,))})) is Refusal.TRUST_DOMAIN_UNKNOWN
    assert accepted(leaf, {CA.domain: TrustBundle(CA.domain, (shared,))})


@pytest.mark.threat(4)
@pytest.mark.parametrize(
    "defect", ["authority-of-the-same-name-and-other-key", "authority-of-the-same-name-and-key-identifier"]
)
def test_threat_4_same_id_and_authority_name_from_a_stranger(defect: str) -> None:
    assert refusal_of(defect) is Refusal.SIGNATURE_INVALID


@pytest.mark.threat(4)
def test_threat_4_stranger_that_sends_its_authority_along() -> None:
    stranger = Ca("example.org", key="stranger")
    chain = [*stranger.leaf().der, der(stranger.certificate)]
    assert refusal(Bad(chain, CA.bundles)) is Refusal.SIGNATURE_INVALID
    assert refusal(Bad([chain[0], der(CA.certificate)], CA.bundles)) is Refusal.SIGNATURE_INVALID


@pytest.mark.threat(5)
@pytest.mark.parametrize(
    ("defect", "code"),
    [
        ("leaf-spiffe-id-as-dns-name", Refusal.NO_SPIFFE_ID),
        ("leaf-spiffe-id-as-email", Refusal.NO_SPIFFE_ID),
        ("leaf-spiffe-id-as-common-name", Refusal.NO_SPIFFE_ID),
        ("leaf-two-uri-names", Refusal.SEVERAL_URI_NAMES),
        ("leaf-same-uri-name-twice", Refusal.SEVERAL_URI_NAMES),
        ("leaf-spiffe-id-and-web-address", Refusal.SEVERAL_URI_NAMES),
    ],
)
def test_threat_5_identity_in_another_place(defect: str, code: Refusal) -> None:
    assert refusal_of(defect) is code


@pytest.mark.threat(6)
@pytest.mark.parametrize(
    "defect",
    ["leaf-spiffe-id-upper-case", "leaf-spiffe-id-with-newline", "leaf-spiffe-id-with-nul", "uri-name-with-long-s"],
)
def test_threat_6_look_alike_in_a_certificate(defect: str) -> None:
    assert refusal_of(defect) is Refusal.SPIFFE_ID_INVALID


@pytest.mark.threat(8)
@pytest.mark.parametrize(
    ("defect", "code"),
    [
        ("leaf-ca-true", Refusal.LEAF_IS_AUTHORITY),
        ("leaf-cert-sign", Refusal.LEAF_SIGNS_CERTIFICATES),
        ("leaf-crl-sign", Refusal.LEAF_SIGNS_CRLS),
        ("leaf-without-digital-signature", Refusal.LEAF_NO_DIGITAL_SIGNATURE),
        ("intermediate-ca-false", Refusal.INTERMEDIATE_NOT_AUTHORITY),
        ("intermediate-without-basic-constraints", Refusal.INTERMEDIATE_NOT_AUTHORITY),
        ("intermediate-is-a-leaf", Refusal.INTERMEDIATE_NOT_AUTHORITY),
        ("intermediate-without-cert-sign", Refusal.INTERMEDIATE_NO_CERT_SIGN),
    ],
)
def test_threat_8_certificate_out_of_its_place(defect: str, code: Refusal) -> None:
    assert refusal_of(defect) is code


@pytest.mark.threat(9)
@pytest.mark.parametrize(
    ("defect", "code"),
    [
        ("server-only-leaf-as-client", Refusal.WRONG_PURPOSE),
        ("client-only-leaf-as-server", Refusal.WRONG_PURPOSE),
        ("server-only-intermediate-above-client", Refusal.INTERMEDIATE_WRONG_PURPOSE),
    ],
)
def test_threat_9_certificate_for_the_other_role(defect: str, code: Refusal) -> None:
    assert refusal_of(defect) is code


@pytest.mark.threat(10)
@pytest.mark.parametrize(
    ("defect", "code"),
    [
        ("uri-name-constraint-in-intermediate", Refusal.NAME_CONSTRAINTS),
        ("dns-name-constraint-in-intermediate", Refusal.NAME_CONSTRAINTS),
        ("intermediate-under-authority-without-room", Refusal.PATH_LENGTH_EXCEEDED),
        ("intermediate-under-intermediate-without-room", Refusal.PATH_LENGTH_EXCEEDED),
        ("critical-extension-unknown-in-leaf", Refusal.CRITICAL_EXTENSION),
        ("critical-extension-unknown-in-intermediate", Refusal.CRITICAL_EXTENSION),
        ("leaf-expired", Refusal.EXPIRED),
        ("leaf-not-yet-valid", Refusal.NOT_YET_VALID),
        ("intermediate-expired", Refusal.INTERMEDIATE_EXPIRED),
        ("intermediate-not-yet-valid", Refusal.INTERMEDIATE_NOT_YET_VALID),
        ("authority-expired", Refusal.AUTHORITY_EXPIRED),
        ("authority-not-yet-valid", Refusal.AUTHORITY_NOT_YET_VALID),
    ],
)
def test_threat_10_path_that_rfc_5280_refuses(defect: str, code: Refusal) -> None:
    assert refusal_of(defect) is code


@pytest.mark.threat(13)
def test_threat_13_pin_is_the_leaf_s_not_an_intermediate_s() -> None:
    peer = accepted(DEEP.der)
    assert peer.pin == Pin.of_certificate(DEEP.chain[0])
    assert peer.pin not in {Pin.of_certificate(certificate) for certificate in (*DEEP.chain[1:], CA.certificate)}


@pytest.mark.threat(13)
def test_threat_13_pin_survives_renewal_and_not_a_new_key() -> None:
    """A pin is of the key: what the certificate says otherwise does not change it."""
    first = accepted(CA.leaf(key=keypair("same")).der)
    renewed = accepted(CA.leaf("/agent/other/1", key=keypair("same"), lifetime=DAY).der)
    rotated = accepted(CA.leaf(key=keypair("backup")).der)
    assert first.pin == renewed.pin
    assert rotated.pin != first.pin
    assert rotated.pin == Pin.of_certificate(CA.leaf(key=keypair("backup")).leaf)


def look_alikes(count: int) -> list[bytes]:
    """A leaf under so many intermediates that each could have signed it and each of the others."""
    key = keypair("look-alike", curve=ec.SECP384R1)  # the slowest to check that is allowed
    signer = Signer(name("look-alike"), key)
    return [der(forge(signer)), *(der(forge_signing(signer, key, "look-alike")) for _ in range(count))]


def constrained(count: int) -> list[bytes]:
    key = keypair("forged intermediate")
    names = [x509.DNSName(f"n{number}.example") for number in range(count)]
    extension = x509.NameConstraints(names, None)
    signing = forge_signing(CA.signer, key, "intermediate", extensions=[(extension, True)])
    return [der(forge(Signer(name("intermediate"), key))), der(signing)]


def oversized_rsa() -> list[bytes]:
    """An intermediate whose key would take long to check the leaf's signature with; that one is never looked at."""
    signing = forge(
        CA.signer,
        rsa_public_key(16384),
        subject="intermediate",
        uris=[],
        ca=True,
        key_usage=CA.certificate.extensions.get_extension_for_class(x509.KeyUsage).value,
        purposes=None,
    )
    return [der(forge(Signer(name("intermediate"), keypair()))), der(signing)]


@pytest.mark.threat(50)
@pytest.mark.parametrize(
    ("build", "code"),
    [
        (lambda: look_alikes(100), Refusal.CHAIN_TOO_LONG),
        (lambda: look_alikes(MAX_CHAIN_CERTIFICATES - 1), Refusal.AUTHORITY_UNKNOWN),
        (lambda: constrained(4096), Refusal.CHAIN_TOO_LARGE),
        (lambda: constrained(2048), Refusal.NAME_CONSTRAINTS),
        (lambda: [der(forge(CA.signer, rsa_public_key(16384)))], Refusal.KEY_OVERSIZED),
        (oversized_rsa, Refusal.KEY_OVERSIZED),
        (lambda: [*CA.leaf().der, bytes(1 << 20)], Refusal.CHAIN_TOO_LARGE),
        (lambda: [bytes(1 << 20)], Refusal.LEAF_TOO_LARGE),
        (lambda: [*CA.leaf().der, *[b"\x30"] * 1_000_000], Refusal.CHAIN_TOO_LONG),
        (lambda: [b"\x30\x80" * 8000], Refusal.CERTIFICATE_MALFORMED),
    ],
    ids=[
        "100-look-alikes",
        "as-many-look-alikes-as-fit",
        "4096-name-constraints",
        "as-many-name-constraints-as-fit",
        "rsa-16384-leaf",
        "rsa-16384-intermediate",
        "1-mb-chain",
        "1-mb-leaf",
        "million-certificates",
        "nested-elements",
    ],
)
def test_threat_50_costly_chain_is_refused_in_no_time(build, code: Refusal) -> None:  # noqa: ANN001  a lambda above
    bad = Bad(build(), CA.bundles)
    started = time.process_time()
    assert refusal(bad) is code
    assert time.process_time() - started < 0.5


@given(st.integers(0, 2), st.lists(st.tuples(st.integers(0, 3000), st.binary(max_size=3)), min_size=1, max_size=4))
def test_damaged_chain_is_refused_and_nothing_else(at: int, edits: list[tuple[int, bytes]]) -> None:
    """A chain with bytes replaced, inserted or left out proves the same peer or raises VerificationError."""
    damaged = edited(DEEP.der[at], edits)
    chain = [*DEEP.der[:at], damaged, *DEEP.der[at + 1 :]]
    found = outcome(chain)
    if damaged == DEEP.der[at]:
        assert found == accepted(DEEP.der)
    else:
        assert isinstance(found, VerificationError)


@given(st.lists(st.tuples(st.integers(0, 1000), st.binary(max_size=3)), min_size=1, max_size=3))
def test_damage_that_the_authority_signed_raises_nothing_else(edits: list[tuple[int, bytes]]) -> None:
    """A leaf whose encoding an authority garbled proves a peer of its domain or raises VerificationError."""
    plain = forge(CA.signer)
    key = keypair("authority example.org ")

    def edit(tbs: bytes) -> bytes:
        assume(edited(tbs, edits) != tbs)
        return edited(tbs, edits)

    found = outcome([resign(plain, key, edit)])
    if not isinstance(found, VerificationError):
        assert found.id.trust_domain == CA.domain


def edited(data: bytes, edits: list[tuple[int, bytes]]) -> bytes:
    for at, new in edits:
        place = at % len(data)
        data = data[:place] + new + data[place + 1 :]
    return data


def outcome(chain: list[bytes]) -> Peer | VerificationError:
    try:
        return accepted(chain)
    except VerificationError as error:
        return error
