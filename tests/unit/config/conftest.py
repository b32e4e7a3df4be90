from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.configuration import Workspace

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture(scope="module")
def shared_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """For property tests, which write thousands of files over one."""
    return Workspace(tmp_path_factory.mktemp("configuration"))
