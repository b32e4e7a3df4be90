from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.settings import FileSource, Keeping
from sidecar.tokens.sources import file as module
from sidecar.tokens.sources.file import File
from sidecar.tokens.token import MAX_BYTES
from tests.support.clock import Shifted
from tests.support.token_sources import lasting
from tests.support.tokens import means

if TYPE_CHECKING:
    from pathlib import Path


def source(path: Path, clock: Shifted | None = None, **keeping: float) -> File:
    return File(FileSource("x", path, keeping=Keeping(**keeping)), means(clock=(clock or Shifted()).clock))


async def refused(path: Path) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await source(path).fetch()
    return caught.value


async def test_one_newline_is_taken_off(tmp_path: Path) -> None:
    path = tmp_path / "token"
    for content in (b"a-token", b"a-token\n"):
        path.write_bytes(content)
        assert (await source(path).fetch()).value == "a-token"
    for content in (b"a-token\n\n", b"a-token\r\n", b" a-token", b"a-token \n", b"\na-token"):
        path.write_bytes(content)
        assert (await refused(path)).code is SourceCode.BAD_TOKEN


async def test_the_longest(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"a" * MAX_BYTES + b"\n")
    assert len((await source(path).fetch()).value) == MAX_BYTES
    for content in (b"a" * (MAX_BYTES + 1), b"a" * (MAX_BYTES + 1) + b"\n", b"a" * 10_000_000):
        path.write_bytes(content)
        assert (await refused(path)).code is SourceCode.BAD_TOKEN


async def test_a_jwt_says_when_it_ends(tmp_path: Path) -> None:
    path, clock = tmp_path / "token", Shifted()
    path.write_text(lasting(3600))
    token = await source(path, clock).fetch()
    assert token.lifetime == 900
    token = await source(path, clock, max_lifetime=1e9).fetch()
    assert token.lifetime is not None
    assert 3500 < token.lifetime <= 3600
    assert not token.bound
    clock.wall = 3601
    with pytest.raises(SourceError) as caught:
        await source(path, clock).fetch()
    assert caught.value.code is SourceCode.EXPIRED
    assert "has stopped" in caught.value.hint


async def test_other_tokens_do_not(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("opaque")
    token = await source(path).fetch()
    assert (token.lifetime, token.expires) == (None, None)


async def test_what_is_no_file(tmp_path: Path) -> None:
    fifo, sock = tmp_path / "fifo", tmp_path / "socket"
    os.mkfifo(fifo)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(sock))
        for path in (fifo, sock, tmp_path, tmp_path / "absent", tmp_path / "fifo" / "below"):
            error = await refused(path)
            assert error.code is SourceCode.FILE
            assert error.hint
            # Told by what it is, and not by a wait for whoever would write into it.
            assert ("is not a regular file" in str(error)) is path.exists()


async def test_a_fifo_with_a_writer_is_none_either(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = os.open(fifo, os.O_RDWR)
    os.write(writer, b"a-token")
    assert "not a regular file" in str(await refused(fifo))
    os.close(writer)


async def test_what_cannot_be_a_name(tmp_path: Path) -> None:
    assert (await refused(tmp_path / "a\0b")).code is SourceCode.FILE


async def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert (await refused(tmp_path / "a")).code is SourceCode.FILE


async def test_what_everybody_can_write(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("a-token")
    for mode, bad in ((0o666, True), (0o602, True), (0o664, False), (0o644, False), (0o600, False)):
        path.chmod(mode)
        if bad:
            error = await refused(path)
            assert error.code is SourceCode.FILE
            assert "chmod o-w" in error.hint
        else:
            assert (await source(path).fetch()).value == "a-token"


async def test_what_we_may_not_read(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("a-token")
    path.chmod(0)
    with contextlib.ExitStack() as stack:
        if os.geteuid() == 0:  # root may read everything: be somebody else for a moment
            os.seteuid(65534)
            stack.callback(os.seteuid, 0)
        assert f"uid {os.geteuid()}" in (await refused(path)).hint


async def test_what_is_written_to_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_text("half-a-")
    read = os.read

    def write_then_read(descriptor: int, size: int) -> bytes:
        with path.open("a") as file:
            file.write("token")
        return read(descriptor, size)

    monkeypatch.setattr(module.os, "read", write_then_read)
    error = await refused(path)
    assert error.code is SourceCode.FILE
    assert "while it was read" in str(error)


async def test_a_file_system_that_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_text("a-token")

    def fail(_descriptor: int, _size: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module.os, "read", fail)
    error = await refused(path)
    assert (error.code, str(error)) == (SourceCode.FILE, f"{path} cannot be read: input/output error")


async def test_a_file_system_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, gone_on = threading.Event(), threading.Event()
    really_open = os.open

    def hang(*_: object) -> int:
        go_on.wait(20)
        gone_on.set()
        return really_open("/dev/null", os.O_RDONLY)  # which the reader closes

    monkeypatch.setattr(module, "READ_SECONDS", 0.05)
    monkeypatch.setattr(module.os, "open", hang)
    assert (await refused(tmp_path)).code is SourceCode.FILE
    go_on.set()
    assert gone_on.wait(20)


async def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("a-token")
    await source(path).fetch()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - numbers are all that is wanted
    for content in ("a-token", "two words"):
        path.write_text(content)
        for _ in range(20):
            made = source(path)
            if content == "a-token":
                await made.fetch()
            else:
                await refused(path)
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208 - as above


async def test_a_change_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first")
    made = source(path)
    assert not await made.changed()
    assert (await made.fetch()).value == "first"
    assert not await made.changed()

    path.write_text("again")  # of the same length, in the same file
    os.utime(path, ns=(0, 0))
    assert await made.changed()
    assert (await made.fetch()).value == "again"
    assert not await made.changed()

    (tmp_path / "new").write_text("third")
    (tmp_path / "new").rename(path)
    assert await made.changed()
    assert (await made.fetch()).value == "third"

    path.unlink()
    assert await made.changed()
    with pytest.raises(SourceError):
        await made.fetch()
    assert await made.changed()


async def test_a_volume_of_kubernetes(tmp_path: Path) -> None:
    for name in ("..1", "..2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(f"of-{name}")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "token").symlink_to("..data/token")
    made = source(tmp_path / "token")
    assert (await made.fetch()).value == "of-..1"
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert await made.changed()
    assert (await made.fetch()).value == "of-..2"
    assert not await made.changed()


async def test_what_is_bad_is_still_a_change(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("good")
    made = source(path)
    await made.fetch()
    path.write_text("not good")
    with pytest.raises(SourceError):
        await made.fetch()
    assert await made.changed()
    path.write_text("good-again")
    assert (await made.fetch()).value == "good-again"
    assert not await made.changed()
