from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from sidecar.demo.admin import identity
from sidecar.demo.outcome import UnexpectedError

if TYPE_CHECKING:
    from pathlib import Path

OK = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s"


def answered(path: Path, body: bytes) -> None:
    """Answers one question at that socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def answer() -> None:
        with listener, listener.accept()[0] as asked:
            asked.recv(65_536)
            asked.sendall(OK % (len(body), body))

    threading.Thread(target=answer, daemon=True).start()


def test_an_identity_is_what_the_sidecar_says(tmp_path: Path) -> None:
    answered(tmp_path / "s", b'{"certs": [{"identity": "spiffe://x/y", "key_protection": "tpm"}]}')
    assert identity(tmp_path / "s") == {"identity": "spiffe://x/y", "key_protection": "tpm"}


@pytest.mark.parametrize("body", [b"", b"{}", b'{"certs": []}', b'{"certs": [{}, {}]}', b'{"certs": null}', b"[]"])
def test_an_answer_that_tells_no_identity(tmp_path: Path, body: bytes) -> None:
    answered(tmp_path / "s", body)
    with pytest.raises(UnexpectedError, match="does not tell its identity"):
        identity(tmp_path / "s")


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(UnexpectedError, match="does not tell its identity"):
        identity(tmp_path / "s")
