from __future__ import annotations

import pytest

from sidecar.policy.decision import Denial, Permit, Reason
from sidecar.policy.paths import PathCode


def test_a_permit_cannot_be_changed_into_another() -> None:
    permit = Permit(rule="inbound.tools.allow[0]", decision_id="1", policy_version="v1")
    with pytest.raises(AttributeError):
        permit.rule = "inbound.tools.allow[1]"  # type: ignore[misc] - what must fail


def test_a_denial_is_forbidden_unless_it_says_otherwise() -> None:
    assert Denial(Reason.CALLER_NOT_NAMED, "1", "v1").status == 403


def test_no_code_means_two_things() -> None:
    codes = [reason.value for reason in Reason] + [code.value for code in PathCode]
    assert len(codes) == len(set(codes))
    assert all(code.isascii() and code == code.lower() and " " not in code for code in codes)
