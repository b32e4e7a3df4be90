from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.signer_service import Ground

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    made = Ground(tmp_path)
    yield made
    await made.close()
