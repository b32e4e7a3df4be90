"""A WebSocket server of the `websockets` library: ``python -m tests.support.websocket_server PORT``.

It says back what it hears. ``fields`` is answered with the header fields of the handshake, ``bye`` with the end, and
``count N`` with N messages of 1 KiB, as fast as they are taken. Anything but ``/ws`` is answered 404, and it takes the `Host` ``tools.internal`` alone.
"""

from __future__ import annotations

import asyncio
import json
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING

from websockets import Subprotocol
from websockets.asyncio.server import serve

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response


def look(connection: ServerConnection, request: Request) -> Response | None:
    if request.path.partition("?")[0] != "/ws":
        return connection.respond(HTTPStatus.NOT_FOUND, "there is nothing\n")
    if request.headers.get("Host") != "tools.internal":
        return connection.respond(HTTPStatus.MISDIRECTED_REQUEST, "that is not me\n")
    return None


async def talk(connection: ServerConnection) -> None:
    async for message in connection:
        if message == "bye":
            await connection.close(1000, "as you wish")
        elif message == "fields":
            assert connection.request is not None
            await connection.send(json.dumps(dict(connection.request.headers.raw_items())))
        elif isinstance(message, str) and message.startswith("count "):
            for number in range(int(message.removeprefix("count "))):
                await connection.send(number.to_bytes(4, "big") * 256)
        else:
            await connection.send(message)


async def main(port: int) -> None:
    async with serve(
        talk, "127.0.0.1", port, process_request=look, subprotocols=[Subprotocol("mcp")], max_size=None
    ) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
