from __future__ import annotations

import json
import os
import resource
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.app.workers.channel import MAX_DESCRIPTORS, Channel
from tests.support.eventually import soon
from tests.support.pair import turns

if TYPE_CHECKING:
    from collections.abc import Iterator


class End:
    """One end of a channel, and what came to it."""

    def __init__(self, sock: socket.socket, **more: Any) -> None:
        self.frames: list[dict[str, Any]] = []
        self.descriptors: list[int] = []
        self.ended: list[str] = []
        self.channel = Channel(sock, self.take, self.ended.append, **more)

    def take(self, content: dict[str, Any], descriptors: list[int]) -> None:
        self.frames.append(content)
        self.descriptors += descriptors


def frame(content: object, descriptors: int = 0) -> bytes:
    text = json.dumps(content).encode()
    return struct.pack(">IB", len(text), descriptors) + text


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


async def test_frames_arrive_in_order_and_whole(sockets: tuple[socket.socket, socket.socket]) -> None:
    here, there = map(End, sockets)
    sent = [{"n": n, "text": "x" * 100_000} for n in range(30)]
    for each in sent:
        here.channel.send(each)
    assert not here.channel.sent, "more than a socket takes at once"
    await soon(lambda: len(there.frames) == len(sent), "the frames")
    assert there.frames == sent
    assert here.channel.sent
    here.channel.close()
    await soon(lambda: there.ended == ["is gone"], "the end")
    there.channel.send({"to": "nobody"})


async def test_descriptors_arrive_with_their_frames(sockets: tuple[socket.socket, socket.socket]) -> None:
    here, there = map(End, sockets)
    reading, writing = os.pipe()
    many = [writing] * MAX_DESCRIPTORS
    here.channel.send({"text": "x" * 400_000})
    here.channel.send({"first": 1}, many)
    here.channel.send({"second": 2}, [writing])
    await soon(lambda: len(there.frames) == 3, "the frames")
    assert len(there.descriptors) == MAX_DESCRIPTORS + 1
    os.close(writing)
    for number in there.descriptors:
        assert not os.get_inheritable(number)
        os.write(number, b".")
        os.close(number)
    assert len(os.read(reading, 1000)) == MAX_DESCRIPTORS + 1
    os.close(reading)
    for each in (here, there):
        each.channel.close()


async def test_a_frame_whose_descriptors_find_no_room_comes_without_any_and_the_next_one_whole(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    here, there = map(End, sockets)
    reading, writing = os.pipe()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(lowest := os.dup(writing))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 2, limits[1]))
        here.channel.send({"first": 1}, [writing] * 50)
        here.channel.send({"second": 2})
        await turns(5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (there.frames, there.descriptors) == ([{"first": 1}, {"second": 2}], [])
    here.channel.send({"third": 3}, [writing] * 2)
    await soon(lambda: len(there.frames) == 3, "the frame")
    assert len(there.descriptors) == 2
    for number in {*there.descriptors, reading, writing}:
        os.close(number)
    for each in (here, there):
        each.channel.close()


async def test_descriptors_of_no_frame_are_not_hoarded(sockets: tuple[socket.socket, socket.socket]) -> None:
    here = End(sockets[0])
    data = frame({"long": "x" * 100})
    for start in (0, 10):
        socket.send_fds(sockets[1], [data[start : start + 10]], [0])
    await soon(lambda: here.ended == ["sent descriptors that are of no frame"], "the end")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (frame([1]), "sent what is no JSON object"),
        (struct.pack(">IB", 3, 0) + b"{{{", "sent what is no JSON object"),
        (struct.pack(">IB", 5, 0) + b"[" * 5, "sent what is no JSON object"),
        (struct.pack(">IB", 1001, 0), "sent a frame that is too large"),
        (struct.pack(">IB", 10, MAX_DESCRIPTORS + 1), "sent a frame that is too large"),
        (frame({}, 1), "sent other descriptors than it says"),
    ],
)
async def test_what_is_no_frame_ends_it(sockets: tuple[socket.socket, socket.socket], data: bytes, why: str) -> None:
    here = End(sockets[0], most=1000)
    sockets[1].sendall(frame({"good": True}) + data + frame({"never": "seen"}))
    await soon(lambda: here.ended == [why], "the end")
    assert here.frames == [{"good": True}]
    assert here.channel.closed


async def test_a_frame_in_pieces(sockets: tuple[socket.socket, socket.socket]) -> None:
    here = End(sockets[0])
    for byte in frame({"a": "ü"}):
        sockets[1].send(bytes([byte]))
        await turns(2)
    assert here.frames == [{"a": "ü"}]
    here.channel.close()
    assert here.ended == []


@given(st.dictionaries(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)), max_size=5))
async def test_whatever_text_is_sent_arrives(content: dict[str, str]) -> None:
    """Whatever text is sent arrives, lone surrogates (the names of files) among it."""
    one, other = socket.socketpair()
    here, there = End(one), End(other)
    here.channel.send(content)
    await turns(3)
    assert there.frames == [content]
    here.channel.close()
    there.channel.close()
