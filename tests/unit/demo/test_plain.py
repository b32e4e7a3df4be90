from __future__ import annotations

import socket
import threading

import pytest

from sidecar.demo import plain
from sidecar.demo.outcome import UnexpectedError


def exchange(answer: bytes) -> tuple[plain.Answer | UnexpectedError, bytes]:
    received: list[bytes] = []

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                received.append(connection.recv(65536))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            result: plain.Answer | UnexpectedError = plain.get(
                listener.getsockname()[1], "/x", "tools.internal", [("X_A", "1"), ("X_A", "2")]
            )
        except UnexpectedError as error:
            result = error
        thread.join(5)
    return result, received[0]


def test_fields_go_out_as_they_are_written() -> None:
    result, received = exchange(b'HTTP/1.1 403 x\r\nContent-Length: 7\r\n\r\n{"a":1}')
    assert result == plain.Answer(403, {"a": 1})
    assert received == b"GET /x HTTP/1.1\r\nHost: tools.internal\r\nX_A: 1\r\nX_A: 2\r\n\r\n"


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 x\r\nContent-Length: 1\r\n\r\n{"])
def test_what_is_no_answer(answer: bytes) -> None:
    result, _ = exchange(answer)
    assert isinstance(result, UnexpectedError)
