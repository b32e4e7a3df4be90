from __future__ import annotations

import os

import pytest

from sidecar.admin.credentials import allowed_uids


@pytest.mark.threat(25)
def test_threat_25_we_root_and_those_that_are_named_may_ask() -> None:
    assert allowed_uids() == {os.geteuid(), 0}
    assert allowed_uids([1234]) == {os.geteuid(), 0, 1234}
