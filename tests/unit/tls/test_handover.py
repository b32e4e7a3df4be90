"""Bytes for functions that take only a path."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from sidecar.tls.handover import path_holding


def test_the_path_reads_as_the_content_and_is_gone_afterwards() -> None:
    with path_holding(b"content") as path:
        assert Path(path).read_bytes() == b"content"
        assert Path(path).read_bytes() == b"content", "a second open starts at the beginning"
    assert not Path(path).exists()


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="anonymous files are Linux's")
def test_on_linux_nothing_is_written_to_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: pytest.fail("a directory was made"))
    with path_holding(b"content") as path:
        assert path.startswith("/proc/self/fd/")


@pytest.fixture
def no_memfd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_elsewhere_it_is_a_file_that_nobody_else_can_open(no_memfd: Path) -> None:
    with path_holding(b"content") as path:
        assert Path(path).read_bytes() == b"content"
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
        assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700
        assert Path(path).parent.parent == no_memfd
    assert list(no_memfd.iterdir()) == []


def test_elsewhere_the_file_goes_even_if_the_block_fails(no_memfd: Path) -> None:
    with pytest.raises(LookupError), path_holding(b"content"):
        raise LookupError
    assert list(no_memfd.iterdir()) == []
