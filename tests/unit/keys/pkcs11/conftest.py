from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sidecar.keys.error_queue import untouched
from tests.support.machine import missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.softhsm import SoftHsm

# Without python-pkcs11 these files cannot even be imported. In CI that is a failure, like every other missing part.
collect_ignore_glob = ["test_*.py"] if missing("python-pkcs11") and not os.environ.get("CI") else []


@pytest.fixture(autouse=True)
def _error_queue() -> Iterator[None]:
    """These tests reach into a module without `Module.alone`: what it leaves to OpenSSL is not for the tests after them."""
    with untouched():
        yield


@pytest.fixture
def hsm() -> Iterator[SoftHsm]:
    from tests.support.softhsm import SoftHsm

    with SoftHsm() as made:
        yield made
        assert made.module.sessions == 0, "a session stayed open"
        assert made.module.pins == {}
