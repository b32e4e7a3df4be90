"""A program: stands before a TPM's UNIX socket and lets each command take longer, one after the other as in a TPM.

swtpm answers within a millisecond, a TPM chip after some tens to hundreds. The second socket (``.ctrl``), by which
tpm2-tss manages swtpm, is passed through.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: Of a command and of an answer: tag, size, code (TPM 2.0 part 1, 18).
_HEADER: Final = 10

#: Both directions of one connection.
Ends: TypeAlias = "tuple[asyncio.StreamReader, asyncio.StreamWriter]"


class SlowTpm:
    """Serves one TPM; ``delay`` is in seconds."""

    def __init__(self, tpm: Path, delay: float) -> None:
        self._tpm = tpm
        self._delay = delay
        self._one = asyncio.Lock()
        self._servers: list[asyncio.Server] = []

    async def listen(self, path: Path) -> None:
        """Opens both sockets, until `close`."""
        await self._serve(path, self._tpm, self._commands)
        control, beyond = (each.with_name(f"{each.name}.ctrl") for each in (path, self._tpm))
        await self._serve(control, beyond, _pass)

    def close(self) -> None:
        """Accepts nobody any more."""
        for server in self._servers:
            server.close()

    async def _serve(self, path: Path, beyond: Path, carry: Callable[[Ends, Ends], Awaitable[object]]) -> None:
        self._servers.append(await asyncio.start_unix_server(partial(_connected, beyond, carry), path))

    async def _commands(self, user: Ends, tpm: Ends) -> None:
        while True:
            asked = await _message(user[0])
            async with self._one:
                await asyncio.sleep(self._delay)
                tpm[1].write(asked)
                answer = await _message(tpm[0])
            user[1].write(answer)


async def _connected(
    beyond: Path,
    carry: Callable[[Ends, Ends], Awaitable[object]],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    try:
        tpm = await asyncio.open_unix_connection(beyond)
        try:
            await carry((reader, writer), tpm)
        finally:
            tpm[1].close()
    except (OSError, asyncio.IncompleteReadError):
        return  # either side went away; the other is told by the close
    finally:
        writer.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """Reads a whole command or answer; its size stands in its third to sixth byte."""
    head = await reader.readexactly(_HEADER)
    return head + await reader.readexactly(int.from_bytes(head[2:6]) - _HEADER)


async def _pass(user: Ends, tpm: Ends) -> None:
    await asyncio.gather(_pump(user[0], tpm[1]), _pump(tpm[0], user[1]))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(4096):
        writer.write(data)
    writer.close()


async def main(argv: list[str] | None = None) -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tpm", type=Path, required=True)
    parser.add_argument("--listen", type=Path, required=True)
    parser.add_argument("--delay", type=float, required=True)
    args = parser.parse_args(argv)
    await SlowTpm(args.tpm, args.delay).listen(args.listen)
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
