from __future__ import annotations

import re

from sidecar.errors import Fault
from sidecar.identity.refusal import Refusal, VerificationError


def test_codes_are_stable_words_that_are_no_other_code() -> None:
    assert all(re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", refusal) for refusal in Refusal)
    assert len(Refusal.__members__) == len(set(Refusal))


def test_error_is_the_peer_s_and_carries_its_code() -> None:
    error = VerificationError(Refusal.EXPIRED, "a certificate has expired", hint="renew it")
    assert (error.code, str(error), error.hint) == (Refusal.EXPIRED, "a certificate has expired", "renew it")
    assert error.fault is Fault.PEER
