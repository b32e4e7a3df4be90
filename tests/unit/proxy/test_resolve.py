"""Names that are looked up apart: who waits for whom, and that nobody waits for a resolver that hangs."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any, Self

import pytest

from sidecar.proxy.resolve import Name
from sidecar.proxy.target import TcpTarget
from tests.support.eventually import soon

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 8443


class Resolver:
    """Takes the place of the system's: names that begin with ``slow`` are not answered before `let_go`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.addresses = ["127.0.0.1"]
        self._go = threading.Event()

    def look_up(self, host: bytes, port: int, **_: int) -> list[tuple[Any, ...]]:
        self.asked.append(host.decode())
        if host.startswith(b"slow"):
            assert self._go.wait(20)
        if host.endswith(b"unknown"):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses]

    def let_go(self) -> None:
        self._go.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    with Resolver() as made:
        monkeypatch.setattr(socket, "getaddrinfo", made.look_up)
        yield made


async def first(name: Name) -> str:
    return str((await name.look_up())[0][4][0])


async def test_a_name_whose_servers_are_silent_holds_up_no_other(resolver: Resolver) -> None:
    slow = [asyncio.get_running_loop().create_task(first(Name(f"slow{n}", PORT))) for n in range(40)]
    await soon(lambda: len(resolver.asked) == 40, "all of them to be under way")
    assert await asyncio.wait_for(first(Name("quick", PORT)), 10) == "127.0.0.1"
    assert not any(task.done() for task in slow)
    resolver.let_go()
    assert await asyncio.gather(*slow) == ["127.0.0.1"] * 40


@pytest.mark.parametrize("host", ["slow.example", "slow.unknown"])
async def test_who_asks_for_the_same_name_meanwhile_gets_the_same_answer(resolver: Resolver, host: str) -> None:
    name = Name(host, PORT)
    asking = [asyncio.get_running_loop().create_task(first(name)) for _ in range(100)]
    await soon(lambda: resolver.asked == [host], "the lookup to be under way")
    resolver.let_go()
    found = await asyncio.gather(*asking, return_exceptions=True)
    if host.endswith("unknown"):
        assert all(isinstance(each, socket.gaierror) for each in found)
        assert len(set(map(id, found))) == 100, "an exception keeps the frames of whoever it was raised for"
    else:
        assert found == ["127.0.0.1"] * 100
    assert resolver.asked == [host]


async def test_who_gives_up_leaves_the_others_and_the_thread_behind(resolver: Resolver) -> None:
    name = Name("slow", PORT)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(first(name), 0.01)
    await soon(lambda: resolver.asked == ["slow"], "the lookup to be under way")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(first(name), 0.01)
    assert not name._waiting
    staying = asyncio.get_running_loop().create_task(first(name))
    await asyncio.sleep(0)
    resolver.let_go()
    assert await staying == "127.0.0.1"
    assert resolver.asked == ["slow"], "a name has one thread at the most"
    assert await first(name) == "127.0.0.1"
    assert resolver.asked == ["slow", "slow"], "an answer is for those who waited for it"


async def test_threads_are_not_waited_for_at_the_end_of_the_process(resolver: Resolver) -> None:
    asking = asyncio.get_running_loop().create_task(first(Name("slow", PORT)))
    await soon(lambda: resolver.asked == ["slow"], "the lookup to be under way")
    threads = [each for each in threading.enumerate() if each.name == "resolve"]
    assert threads
    assert all(each.daemon for each in threads)
    resolver.let_go()
    await asking


async def test_where_no_thread_can_be_had_it_is_an_error_of_resources(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = Name("quick", PORT)
    with monkeypatch.context() as patch:
        patch.setattr(
            threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("can't start new thread"))
        )
        with pytest.raises(OSError, match="no thread"):
            await first(name)
    assert await first(name) == "127.0.0.1"


async def test_a_number_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", None)
    assert await first(Name("127.0.0.1", PORT)) == "127.0.0.1"
    assert await first(Name("::1", PORT)) == "::1"


class Made(asyncio.Protocol):
    """Takes the place of a stream."""

    remote = ""

    def connection_made(self, transport: Any) -> None:
        self.remote = "somebody"
        self.transport = transport


async def test_a_target_tries_the_addresses_of_its_name_in_their_order(resolver: Resolver) -> None:
    resolver.addresses = ["127.0.0.2", "127.0.0.1"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        made: Any = Made()
        await TcpTarget("peer.example", server.getsockname()[1]).open(asyncio.get_running_loop(), made)
        assert made.transport.get_extra_info("peername")[0] == "127.0.0.1"
        made.transport.abort()
        await asyncio.sleep(0)
    resolver.addresses = []
    with pytest.raises(socket.gaierror):
        await TcpTarget("peer.example", PORT).open(asyncio.get_running_loop(), made)
