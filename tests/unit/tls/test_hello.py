"""The server name in a ClientHello."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.tls.engine import TlsEngine
from sidecar.tls.hello import server_name
from tests.support.tls import Ours, planner_context


def client_hello(name: str | None, alpn: tuple[str, ...] = ("http/1.1",)) -> bytes:
    client = Ours(TlsEngine(planner_context(alpn=alpn), server_name=name))
    client.turn()
    return client.to_send()


HELLO = client_hello("tools.internal")


def records(message: bytes, size: int) -> bytes:
    """The same handshake message, spread over records of that size (RFC 8446 5.1)."""
    pieces = [message[start : start + size] for start in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def vector(size: int, content: bytes) -> bytes:
    return len(content).to_bytes(size, "big") + content


def hello_with(extensions: bytes) -> bytes:
    body = b"\3\3" + bytes(32) + vector(1, b"") + vector(2, b"\x13\1") + vector(1, b"\0") + vector(2, extensions)
    return records(b"\1" + vector(3, body), 16384)


@pytest.mark.parametrize("name", ["tools.internal", "a", "x" * 63 + ".example.org", None])
def test_the_name_is_found(name: str | None) -> None:
    assert server_name(client_hello(name)) == name


def test_the_name_is_found_behind_other_extensions() -> None:
    assert server_name(client_hello("tools.internal", alpn=("x" * 200, "y" * 200))) == "tools.internal"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_the_name_is_found_in_a_hello_that_is_spread_over_records(size: int) -> None:
    assert server_name(records(HELLO[5:], size)) == "tools.internal"


def test_what_is_not_printable_ascii_comes_out_escaped() -> None:
    forged = HELLO.replace(b"tools", b"\xff\n\x1b \\")
    assert server_name(forged) == "\\xff\\x0a\\x1b\\x20\\.internal"


def test_a_name_of_another_kind_is_none() -> None:
    entry = b"\1" + vector(2, b"tools")
    assert server_name(hello_with(b"\0\0" + vector(2, vector(2, entry)))) is None


def test_a_hello_without_extensions_has_none() -> None:
    assert server_name(hello_with(b"")) is None


@pytest.mark.parametrize(
    "data", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x15\3\3\0\2\2\x28", b"\x16\3\1\0\4\2\0\0\0", b"\x16\3\1\0\0" * 9]
)
def test_what_is_no_hello_has_none(data: bytes) -> None:
    assert server_name(data) is None


@given(st.binary(max_size=600), st.integers(0, len(HELLO)))
@example(b"", len(HELLO))
def test_any_bytes_give_a_name_or_none(noise: bytes, cut: int) -> None:
    """Invariant: never raises, and a name is printable ASCII, whatever follows the first part of a hello."""
    for data in (noise, HELLO[:cut] + noise, HELLO[:5] + noise):
        name = server_name(data)
        assert name is None or (name.isascii() and name.isprintable())


@given(st.integers(0, len(HELLO) - 1))
def test_a_hello_that_is_cut_short_has_none(cut: int) -> None:
    """Invariant: no name without the whole message."""
    assert server_name(HELLO[:cut]) is None
