"""The corpus shows each explanation; here are the choices between two."""

from __future__ import annotations

import time

from sidecar.identity.diagnosis import diagnose
from sidecar.identity.facts import Facts
from sidecar.identity.refusal import Refusal
from tests.support.ca import DAY, NOW, Ca, Signer, forge, forge_signing, keypair, name

ROOT = Signer(name("root"), keypair("root"))
LEAF = Facts.of_certificate(forge(ROOT))


def signing(signer: Signer, subject: str, key: str, **knobs: object) -> Facts:
    return Facts.of_certificate(forge_signing(signer, keypair(key), subject, **knobs))


def test_valid_authority_is_named_ahead_of_an_expired_one() -> None:
    """With a renewal in the bundle the old authority's end is not what is wrong."""
    old = forge_signing(ROOT, keypair("root"), "root", not_after=NOW - 1)
    renewed = forge_signing(ROOT, keypair("root"), "root", not_after=NOW + DAY)
    assert diagnose(LEAF, [], [old, renewed], NOW).code is Refusal.PATH_INVALID
    assert diagnose(LEAF, [], [old], NOW).code is Refusal.AUTHORITY_EXPIRED


def test_authority_is_tried_ahead_of_intermediates() -> None:
    """A peer that sends the expired authority along changes nothing."""
    old = forge_signing(ROOT, keypair("root"), "root", not_after=NOW - 1)
    assert diagnose(LEAF, [Facts.of_certificate(old)], [old], NOW).code is Refusal.AUTHORITY_EXPIRED


def test_self_issued_intermediate_does_not_count_as_deeper() -> None:
    """RFC 5280 6.1.4 (l): a rollover certificate of the same name uses no room."""
    low = Signer(name("low"), keypair("low"))
    leaf = Facts.of_certificate(forge(low))
    rollover = signing(Signer(name("low"), keypair("low old")), "low", "low", path_length=0)
    upper = signing(ROOT, "low", "low old", path_length=0)
    anchor = forge_signing(ROOT, keypair("root"), "root", path_length=1)
    assert diagnose(leaf, [rollover, upper], [anchor], NOW).code is Refusal.PATH_INVALID
    tight = forge_signing(ROOT, keypair("root"), "root", path_length=0)
    assert diagnose(leaf, [rollover, upper], [tight], NOW).code is Refusal.PATH_LENGTH_EXCEEDED


def test_circle_of_intermediates_ends() -> None:
    one, two = Signer(name("one"), keypair("one")), Signer(name("two"), keypair("two"))
    leaf = Facts.of_certificate(forge(one))
    circle = [signing(two, "one", "one"), signing(one, "two", "two")]
    assert diagnose(leaf, circle, [Ca().certificate], NOW).code is Refusal.AUTHORITY_UNKNOWN


def test_crowd_of_namesakes_is_not_tried_one_by_one() -> None:
    """64 authorities of one name cost a handful of signature checks, whatever the peer sends."""
    crowd = [forge_signing(ROOT, keypair(f"crowd {n % 8}"), "root", serial=n + 1) for n in range(64)]
    started = time.process_time()
    assert diagnose(LEAF, [], crowd, NOW).code is Refusal.SIGNATURE_INVALID
    assert time.process_time() - started < 0.5
