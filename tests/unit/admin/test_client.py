from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar.admin import client as module
from sidecar.admin.client import ANSWER_BYTES, AskCode, AskError, Reply, ask
from tests.support.status import CANARY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"


class Answerer:
    """A socket at ``path``; `answer` serves one connection of it, in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard = b""
        self.over = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)

    def answer(self, said: bytes) -> None:
        self.serve(lambda asked: asked.sendall(said))

    def serve(self, act: Callable[[socket.socket], None]) -> None:
        def run() -> None:
            with self._listener.accept()[0] as asked, suppress(OSError):
                self.heard = asked.recv(65_536)
                act(asked)
            self.over.set()

        threading.Thread(target=run, daemon=True).start()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def answerer(tmp_path: Path) -> Iterator[Answerer]:
    made = Answerer(tmp_path / "a.sock")
    yield made
    made.close()


def refused(path: Path, code: AskCode, seconds: float = 20) -> AskError:
    """Asks, and returns the error, which must have this code, a hint, and nothing of an answer."""
    with pytest.raises(AskError) as caught:
        ask(path, "GET", "/x", seconds=seconds)
    error = caught.value
    assert error.code is code, str(error)
    assert error.hint
    assert str(path) in str(error)
    assert error.__cause__ is None
    assert CANARY not in f"{error!r} {error} {error.hint}"
    return error


def test_an_answer(answerer: Answerer) -> None:
    answerer.answer(OK % (14, b'{"token": "x"}'))
    assert ask(answerer.path, "POST", "/tokens/mesh", seconds=20) == Reply(200, {"token": "x"})
    assert answerer.heard.startswith(b"POST /tokens/mesh HTTP/1.1\r\nHost: sidecar\r\n")


def test_an_answer_that_says_no_is_one_too(answerer: Answerer) -> None:
    answerer.answer(b'HTTP/1.1 503 X\r\nContent-Length: 15\r\n\r\n{"error": "no"}')
    assert ask(answerer.path, "GET", "/x", seconds=20) == Reply(503, {"error": "no"})


def test_its_repr_shows_nothing_of_it() -> None:
    assert CANARY not in repr(Reply(200, {"token": CANARY}))


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99",
        b"220 smtp " + CANARY.encode() + b"\r\n",
        b"HTTP/1.1 2xx " + CANARY.encode() + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CANARY.encode() + b"\r\n",
        OK % (99, b'{"token": "' + CANARY.encode()),
        OK % (0, b""),
        OK % (len(CANARY), CANARY.encode()),
        OK % (2, b"[]"),
        OK % (4, b"null"),
        OK % (2, b"\xff\xff"),
        OK % (60_000, b"[" * 60_000),
        OK % (ANSWER_BYTES + 9, b'{"x": "%b"}' % (b"x" * ANSWER_BYTES)),
    ],
)
def test_what_is_no_answer(answerer: Answerer, said: bytes) -> None:
    answerer.answer(said)
    refused(answerer.path, AskCode.NO_ANSWER)


def test_the_longest_answer(answerer: Answerer) -> None:
    body = b'{"x": "%b"}' % (b"x" * (ANSWER_BYTES - 9))
    answerer.answer(OK % (ANSWER_BYTES, body))
    assert len(body) == ANSWER_BYTES
    assert ask(answerer.path, "GET", "/x", seconds=20).status == 200


def test_a_process_that_says_nothing(answerer: Answerer) -> None:
    answerer.serve(lambda asked: asked.recv(1) and None)
    assert "within 0.05 s" in str(refused(answerer.path, AskCode.NO_ANSWER, seconds=0.05))
    assert answerer.over.wait(20), "the connection was closed"


def test_a_process_that_never_ends_with_interim_answers(answerer: Answerer) -> None:
    """The time is for all of the answer: something arrives all the while."""

    def endless(asked: socket.socket) -> None:
        while True:
            asked.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    answerer.serve(endless)
    assert "within 0.2 s" in str(refused(answerer.path, AskCode.NO_ANSWER, seconds=0.2))
    assert answerer.over.wait(20), "the connection was closed"


def test_no_time_at_all(answerer: Answerer) -> None:
    refused(answerer.path, AskCode.NO_ANSWER, seconds=0)


def test_nobody_is_there(tmp_path: Path) -> None:
    assert "no such file" in str(refused(tmp_path / "absent", AskCode.NOT_RUNNING))
    assert "refused" in str(refused(stale(tmp_path / "stale"), AskCode.NOT_RUNNING))
    (tmp_path / "file").touch()
    refused(tmp_path / "file", AskCode.NOT_RUNNING)
    refused(tmp_path / "file" / "x", AskCode.NOT_RUNNING)
    refused(tmp_path / ("x" * 200), AskCode.NOT_RUNNING)


def stale(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    return path


def test_a_process_that_takes_no_connection(tmp_path: Path) -> None:
    """As one that is stopped: what waits there is not served, and there is no room for one more."""
    path = tmp_path / "full"
    waiting = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        with suppress(BlockingIOError):
            while True:
                sock = socket.socket(socket.AF_UNIX)
                waiting.append(sock)
                sock.setblocking(False)
                sock.connect(str(path))
        assert "accepts no connection" in str(refused(path, AskCode.NO_ANSWER))
    for sock in waiting:
        sock.close()


def test_whose_socket_it_is_that_we_may_not_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module._Socket, "connect", connect)
    path = stale(tmp_path / "a.sock")
    assert f"which is uid {os.geteuid()}'s" in str(refused(path, AskCode.DENIED))
    # It is not to be seen, but the folder is.
    assert f"which is uid {os.geteuid()}'s" in str(refused(tmp_path / "closed" / "b.sock", AskCode.DENIED))
    monkeypatch.setattr(Path, "stat", connect)
    assert "another user's" in str(refused(path, AskCode.DENIED))


@pytest.mark.threat(25)
@pytest.mark.parametrize(("uid", "said"), [(4321, "that of uid 4321"), (None, "nobody knows whose")])
def test_threat_25_a_foreign_process_is_told_nothing_and_not_believed(
    answerer: Answerer, monkeypatch: pytest.MonkeyPatch, uid: int | None, said: str
) -> None:
    # The kernel says who listens; what is changed is only what it says.
    monkeypatch.setattr(module, "peer_uid", lambda _: uid)
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    answerer.answer(OK % (2, b"{}"))
    assert said in str(refused(answerer.path, AskCode.FOREIGN))
    assert answerer.over.wait(20)
    assert answerer.heard == b""


@pytest.mark.parametrize("uid", [1234, 0])
def test_our_own_user_and_root_are_believed(answerer: Answerer, monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.setattr(module, "peer_uid", lambda _: uid)
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    answerer.answer(OK % (2, b"{}"))
    assert ask(answerer.path, "GET", "/x", seconds=20) == Reply(200, {})
