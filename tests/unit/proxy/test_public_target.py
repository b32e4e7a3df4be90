"""What the name of an ordinary service leads to: who is dialled, and who never is."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.limits import Limits
from sidecar.proxy.failure import DialError, ProxyCode
from sidecar.proxy.public_target import MOST, PublicTarget

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PORT = 443


class Loop:
    """The event loop with a resolver that says what a test likes, and with a record of what is connected to."""

    def __init__(self, *answers: list[str] | OSError) -> None:
        self._loop = asyncio.get_running_loop()
        self._answers = list(answers)
        self.asked: list[str] = []
        self.dialled: list[str] = []
        #: Where connections go instead, by address; None hangs, any other address is unreachable.
        self.reach: dict[str, int | None] = {}
        #: Those whose connection is made, and lost before anybody knows.
        self.cut: set[str] = set()

    def look_up(self, host: bytes, port: int, **kind: int) -> list[tuple[Any, ...]]:
        """Takes the place of `socket.getaddrinfo`."""
        assert kind == {"type": socket.SOCK_STREAM, "proto": socket.IPPROTO_TCP}
        self.asked.append(host.decode())
        answer = self._answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return [self._info(address, port) for address in answer]

    @staticmethod
    def _info(address: str, port: int) -> tuple[Any, ...]:
        if ":" not in address:
            return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
        name, _, zone = address.partition("%")
        return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (name, port, 0, int(zone or 0)))

    async def create_connection(self, factory: Any, host: str, port: int, **knobs: Any) -> Any:
        assert knobs["flags"] == socket.AI_NUMERICHOST, "a name was handed on"
        assert (port, knobs["family"]) == (PORT, socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.dialled.append(host)
        if host not in self.reach:
            raise OSError(101, "Network is unreachable")
        if self.reach[host] is None:
            await asyncio.sleep(3600)
        made = await self._loop.create_connection(factory, "127.0.0.1", self.reach[host])
        if host in self.cut:
            raise ConnectionResetError
        return made


def target(*, anywhere: bool = False, seconds: float = 5.0) -> PublicTarget:
    hub: Any = SimpleNamespace(limits=Limits(connect_timeout=seconds))
    return PublicTarget("api.llm.example", PORT, hub, anywhere=anywhere)


@asynccontextmanager
async def server() -> AsyncIterator[int]:
    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    made = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with made:
        yield int(made.sockets[0].getsockname()[1])


async def connect(loop: Loop, where: PublicTarget) -> bool:
    """Says whether a connection was made."""
    made = asyncio.get_running_loop().create_future()

    class Stream(asyncio.Protocol):
        remote = ""

        def connection_made(self, transport: Any) -> None:
            self.remote = "somebody"
            made.set_result(transport)

    stream: Any = Stream()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", loop.look_up)
        await where.open(loop, stream)  # type: ignore[arg-type]  # as much of a loop as is used
    made.result().abort()
    return True


async def refusal(loop: Loop, where: PublicTarget) -> DialError:
    with pytest.raises(DialError) as caught:
        await connect(loop, where)
    assert loop.dialled == []
    assert caught.value.code is ProxyCode.UPSTREAM_FORBIDDEN
    return caught.value


async def test_what_was_looked_at_is_what_is_dialled() -> None:
    loop = Loop(["93.184.215.14"])
    async with server() as port:
        loop.reach["93.184.215.14"] = port
        assert await connect(loop, target())
    assert (loop.asked, loop.dialled) == (["api.llm.example"], ["93.184.215.14"])


@pytest.mark.threat(26, 27)
@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "::1",
        "::ffff:127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::1",
        "fe80::1%2",
        "2606:4700::1%2",
    ],
)
async def test_threats_26_27_a_name_that_leads_to_ourselves_or_our_network_is_not_dialled(address: str) -> None:
    error = await refusal(Loop([address]), target())
    assert address in str(error) or "holds" in str(error) or " is " in str(error)
    assert "unsafe_private_addresses: true" in str(error)


@pytest.mark.threat(27)
async def test_threat_27_a_dns_answer_that_changes_to_an_address_of_ours_leads_nowhere() -> None:
    loop = Loop(["93.184.215.14"], ["127.0.0.1"], ["93.184.215.14"])
    where = target()
    async with server() as port:
        loop.reach = {"93.184.215.14": port, "127.0.0.1": port}
        assert await connect(loop, where)
        with pytest.raises(DialError):
            await connect(loop, where)
        assert await connect(loop, where)
    assert loop.dialled == ["93.184.215.14", "93.184.215.14"]


async def test_among_several_the_good_ones_are_dialled_in_their_order_and_no_other() -> None:
    loop = Loop(["10.0.0.1", "2606:4700::1111", "169.254.169.254", "1.1.1.1", "1.1.1.1", "127.0.0.1"])
    async with server() as port:
        loop.reach["1.1.1.1"] = port
        assert await connect(loop, target())
    assert loop.dialled == ["2606:4700::1111", "1.1.1.1"]


async def test_an_address_that_is_silent_does_not_use_up_the_time_of_the_next() -> None:
    loop = Loop(["1.0.0.1", "1.1.1.1"])
    async with server() as port:
        loop.reach = {"1.0.0.1": None, "1.1.1.1": port}
        assert await connect(loop, target(seconds=0.2))
    assert loop.dialled == ["1.0.0.1", "1.1.1.1"]


async def test_a_connection_that_was_lost_is_not_followed_by_another_one() -> None:
    """What uses it has seen the first, and would take the second for the same."""
    loop = Loop(["1.0.0.1", "1.1.1.1"])
    async with server() as port:
        loop.reach = {"1.0.0.1": port, "1.1.1.1": port}
        loop.cut = {"1.0.0.1"}
        with pytest.raises(ConnectionResetError):
            await connect(loop, target())
    assert loop.dialled == ["1.0.0.1"]


async def test_where_none_answers_the_first_says_why() -> None:
    loop = Loop(["1.0.0.1", "1.1.1.1"])
    loop.reach["1.0.0.1"] = None
    with pytest.raises(TimeoutError):
        await connect(loop, target(seconds=0.1))
    assert len(loop.dialled) == 2


async def test_an_answer_without_end_is_not_tried_to_its_end() -> None:
    loop = Loop([f"1.1.{n // 250}.{n % 250}" for n in range(5000)])
    with pytest.raises(OSError, match="unreachable"):
        await connect(loop, target())
    assert len(loop.dialled) == MOST


async def test_a_private_address_is_dialled_where_the_entry_accepts_it() -> None:
    loop = Loop(["127.0.0.1"])
    async with server() as port:
        loop.reach["127.0.0.1"] = port
        assert await connect(loop, target(anywhere=True))


@pytest.mark.parametrize("answer", [socket.gaierror(socket.EAI_NONAME, "unknown"), []])
async def test_a_name_that_is_unknown_stays_one(answer: list[str] | OSError) -> None:
    with pytest.raises(socket.gaierror):
        await connect(Loop(answer), target())


async def test_a_dial_that_is_given_up_leaves_no_socket() -> None:
    loop = Loop(["1.1.1.1"])
    loop.reach["1.1.1.1"] = None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(connect(loop, target()), 0.05)
    assert loop.dialled == ["1.1.1.1"]  # and pytest fails on a socket that nobody has closed


async def test_a_number_is_not_looked_up() -> None:
    """With the real resolver: it only says again what it was given."""
    async with server() as port:
        hub: Any = SimpleNamespace(limits=Limits())
        where = PublicTarget("127.0.0.1", port, hub, anywhere=True)
        stream: Any = asyncio.Protocol()
        await where.open(asyncio.get_running_loop(), stream)
    assert where.text == f"127.0.0.1:{port}"
