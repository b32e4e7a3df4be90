"""The name that a client begins TLS for, where that decides."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.tls.client_hello import HELLO_BYTES, ClientHello, HelloCode, HelloError
from sidecar.tls.hello import server_name
from tests.unit.tls.test_hello import HELLO, client_hello, hello_with, records, vector


def names(*items: tuple[int, bytes]) -> bytes:
    """A server_name extension with these names."""
    listed = b"".join(bytes((kind,)) + vector(2, name) for kind, name in items)
    return b"\0\0" + vector(2, vector(2, listed))


def host_name(data: bytes) -> str | None:
    """The name in bytes that come at once."""
    return ClientHello().feed(data)


def outcome(reader: ClientHello, data: bytes) -> str | HelloCode | None:
    """The name, or why there is none, or None."""
    try:
        return reader.feed(data)
    except HelloError as error:
        return error.code


def refusal(data: bytes) -> HelloCode:
    with pytest.raises(HelloError) as caught:
        host_name(data)
    return caught.value.code


@pytest.mark.parametrize("name", ["tools.internal", "a", "x" * 63 + ".example.org"])
def test_the_name_is_found_in_lower_case(name: str) -> None:
    assert host_name(client_hello(name)) == name
    assert host_name(client_hello(name.title())) == name


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_a_hello_may_be_spread_over_records(size: int) -> None:
    assert host_name(records(HELLO[5:], size)) == "tools.internal"


@given(st.integers(1, 400))
def test_byte_by_byte_it_is_none_until_it_is_whole(size: int) -> None:
    """However it is cut into records, each part of a hello asks for more and the whole gives the name."""
    data = records(HELLO[5:], size)
    assert [host_name(data[:end]) for end in range(len(data))] == [None] * len(data)
    assert host_name(data) == host_name(data + b"what follows") == "tools.internal"


@given(
    st.integers(1, 400), st.lists(st.integers(1, 50), min_size=1), st.integers(0, len(HELLO) - 1), st.integers(0, 255)
)
def test_in_whatever_pieces_it_comes_it_is_read_alike(size: int, steps: list[int], position: int, byte: int) -> None:
    """The pieces that the network makes change nothing of the answer."""
    hello = HELLO[5:position] + bytes((byte,)) + HELLO[position + 1 :] if position > 5 else HELLO[5:]
    data, reader, at = records(hello, size), ClientHello(), 0
    whole = outcome(ClientHello(), data)
    for step in itertools.cycle(steps):
        found = outcome(reader, data[at : at + step])
        at += step
        if at >= len(data) or found is not None:
            break
    assert found == whole


def test_the_smallest_pieces_cost_no_more_than_their_bytes() -> None:
    """Twenty thousand pieces, each a byte of a record of one: what was seen before is not read again with each."""
    data = records(b"\1" + vector(3, bytes(HELLO_BYTES)), 1)
    reader = ClientHello()
    for at in range(HELLO_BYTES - 1):
        assert reader.feed(data[at : at + 1]) is None
        assert len(reader._rest) < 6, "nothing but the header of the next record is looked at again"


@given(st.binary(max_size=300), st.integers(0, len(HELLO)))
def test_any_bytes_give_a_name_or_ask_for_more_or_are_refused(noise: bytes, cut: int) -> None:
    """Nothing else is raised, and a name that is given is the one that is read for the log."""
    for data in (noise, HELLO[:cut] + noise, HELLO[:5] + noise):
        try:
            name = host_name(data)
        except HelloError:
            continue
        assert name is None or name == (server_name(data) or "").lower()


@given(st.integers(0, len(HELLO) - 1), st.integers(0, 255))
def test_a_changed_byte_never_makes_another_name_of_equal_value(position: int, byte: int) -> None:
    """A name is given as it stands in the bytes, or none is."""
    data = HELLO[:position] + bytes((byte,)) + HELLO[position + 1 :]
    try:
        name = host_name(data)
    except HelloError:
        return
    assert name is None or name.encode() in data.lower()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", HelloCode.NOT_TLS),
        (b"\x15\3\3\0\2\2\x28", HelloCode.NOT_TLS),
        (b"\x16\2\0\0\4\1\0\0\0", HelloCode.NOT_TLS),
        (b"\x80\x2e\1\3\3", HelloCode.NOT_TLS),
        (b"\x16\3\1\0\4\2\0\0\0", HelloCode.NOT_TLS),
        (records(HELLO[5:9], 4) + b"\x17\3\3\0\1x", HelloCode.NOT_TLS),
        (b"\x16\3\1\0\0", HelloCode.MALFORMED),
        (b"\x16\3\1\x40\1", HelloCode.MALFORMED),
        (b"\x16\3\1\0\4\1\xff\xff\xff", HelloCode.TOO_LARGE),
        (b"\x16\3\1\0\4\1\0\0\0", HelloCode.MALFORMED),
    ],
    ids=["http", "alert", "ssl2-record", "ssl2", "other-message", "cut", "empty", "long-record", "huge", "empty-hello"],
)
def test_what_is_no_hello_is_refused_at_once(data: bytes, code: HelloCode) -> None:
    assert refusal(data) is code


def test_one_that_never_ends_is_refused() -> None:
    endless = records(b"\1" + vector(3, bytes(HELLO_BYTES)), 1)
    assert host_name(endless[: HELLO_BYTES - 1]) is None
    assert refusal(endless[:HELLO_BYTES]) is HelloCode.TOO_LARGE


@pytest.mark.parametrize(
    ("extensions", "code"),
    [
        (b"", HelloCode.NAME),
        (names(), HelloCode.MALFORMED),
        (names((0, b"")), HelloCode.NAME),
        (names((1, b"tools")), HelloCode.NAME),
        (names((0, b"tools"), (0, b"evil")), HelloCode.MALFORMED),
        (names((0, b"tools"), (1, b"evil")), HelloCode.MALFORMED),
        (names((0, b"tools")) + names((0, b"evil")), HelloCode.MALFORMED),
        (names((0, b"t\xc3\xb6ols")), HelloCode.MALFORMED),
        (b"\0\0" + vector(2, vector(2, b"\0" + vector(2, b"tools")) + b"x"), HelloCode.MALFORMED),
        (names((0, b"tools")) + b"\0", HelloCode.MALFORMED),
        (b"\0\0\0\x20", HelloCode.MALFORMED),
    ],
    ids=["none", "no-names", "empty", "other-kind", "two", "two-kinds", "twice", "umlaut", "behind", "odd", "short"],
)
def test_what_two_readers_could_read_differently_is_refused(extensions: bytes, code: HelloCode) -> None:
    assert refusal(hello_with(extensions)) is code


def test_what_stands_behind_the_extensions_is_refused() -> None:
    body = b"\3\3" + bytes(32) + vector(1, b"") + vector(2, b"\x13\1") + vector(1, b"\0")
    body += vector(2, names((0, b"tools"))) + vector(2, names((0, b"evil")))
    assert refusal(records(b"\1" + vector(3, body), 16384)) is HelloCode.MALFORMED


def test_a_hello_of_old_without_extensions_has_no_name() -> None:
    body = b"\3\3" + bytes(32) + vector(1, b"") + vector(2, b"\0\x2f") + vector(1, b"\0")
    assert refusal(records(b"\1" + vector(3, body), 16384)) is HelloCode.NAME


def test_it_begins_for_one_host() -> None:
    assert ClientHello().begins_for("tools.internal", HELLO)
    assert not ClientHello().begins_for("tools.internal", HELLO[:-1])
    for host in ("internal", "tools.internal.", "x.tools.internal", "TOOLS.internal", ""):
        with pytest.raises(HelloError) as caught:
            ClientHello().begins_for(host, HELLO)
        assert caught.value.code is HelloCode.NAME
