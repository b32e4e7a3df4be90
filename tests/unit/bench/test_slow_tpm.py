"""Between a TPM and its users: whole messages, each later, one after the other."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from bench.backend.slow_tpm import SlowTpm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

DELAY = 0.05
COMMAND = b"\x80\x01\x00\x00\x00\x0c\x00\x00\x01\x7a\x00\x01"
ANSWER = b"\x80\x01\x00\x00\x00\x0a\x00\x00\x00\x00"


async def tpm(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each command, in pieces."""
    while await reader.read(len(COMMAND)):
        writer.write(ANSWER[:4])
        await asyncio.sleep(0)
        writer.write(ANSWER[4:])
    writer.close()


async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says back what it is told."""
    writer.write(await reader.read(100))
    writer.close()


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[Path]:
    servers = [await asyncio.start_unix_server(each, tmp_path / name) for name, each in DEVICE.items()]
    made = SlowTpm(tmp_path / "tpm", DELAY)
    await made.listen(tmp_path / "slow")
    yield tmp_path / "slow"
    made.close()
    for server in servers:
        server.close()
    # Every connection ends by itself, since its user has gone; then the loop closes what was closed.
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        _, left = await asyncio.wait(others, timeout=5)
        assert not left
    await asyncio.sleep(0)


DEVICE: dict[str, Talk] = {"tpm": tpm, "tpm.ctrl": control}


async def ask(relay: Path, times: int) -> None:
    reader, writer = await asyncio.open_unix_connection(relay)
    for _ in range(times):
        writer.write(COMMAND[:5])
        await asyncio.sleep(0)
        writer.write(COMMAND[5:])
        assert await reader.readexactly(len(ANSWER)) == ANSWER
    writer.close()
    await writer.wait_closed()


async def test_each_command_takes_longer(relay: Path) -> None:
    start = time.monotonic()
    await ask(relay, 3)
    assert time.monotonic() - start >= 3 * DELAY


async def test_two_users_wait_for_each_other(relay: Path) -> None:
    start = time.monotonic()
    await asyncio.gather(ask(relay, 2), ask(relay, 2))
    assert time.monotonic() - start >= 4 * DELAY


async def test_the_control_socket_is_passed_through(relay: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(relay.with_name("slow.ctrl"))
    writer.write(b"hello")
    assert await reader.read() == b"hello"
    writer.close()
    await writer.wait_closed()


async def test_a_tpm_that_goes_away_ends_the_connection(relay: Path) -> None:
    relay.with_name("tpm").unlink()
    reader, writer = await asyncio.open_unix_connection(relay)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
