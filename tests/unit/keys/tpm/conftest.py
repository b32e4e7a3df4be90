"""A software TPM for each test, and keys in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.swtpm import Made, Swtpm


@pytest.fixture
def tpm() -> Iterator[Swtpm]:
    from tests.support.swtpm import Swtpm

    with Swtpm() as started:
        yield started


@pytest.fixture
def make(tpm: Swtpm) -> Iterator[Callable[..., Made]]:
    """Makes keys, as `make_key` does; all signers are closed at the end."""
    from tests.support.swtpm import make_key

    made: list[Made] = []

    def make(*, handle: int | None = None, pin: bytes | None = None) -> Made:
        made.append(make_key(tpm, handle=handle, pin=pin))
        return made[-1]

    yield make
    for each in made:
        each.close()
