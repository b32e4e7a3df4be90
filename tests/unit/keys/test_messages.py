from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.keys.messages import MAX_BYTES, RECOGNISERS, recognise, self_test_message

BLANKS = b" " * 64
#: The example of RFC 8446 4.4.3: a hash of 32 bytes of 01 in the CertificateVerify of a server.
RFC_EXAMPLE = bytes.fromhex(
    "2020202020202020202020202020202020202020202020202020202020202020"
    "2020202020202020202020202020202020202020202020202020202020202020"
    "544c5320312e332c207365727665722043657274696669636174655665726966"
    "79000101010101010101010101010101010101010101010101010101010101010101"
)


def handshake(side: bytes = b"server", digest: bytes = bytes(range(32))) -> bytes:
    return BLANKS + b"TLS 1.3, " + side + b" CertificateVerify\0" + digest


GOOD = [
    ("tls13-certificate-verify", RFC_EXAMPLE),
    *(
        ("tls13-certificate-verify", handshake(side, digest))
        for side in (b"server", b"client")
        for digest in (bytes(range(32)), bytes(range(48)), b"\n" * 32, b" " * 48, b"\xff" * 48)
    ),
    ("self-test", BLANKS + b"sidecar self-test\0" + bytes(range(32))),
    ("self-test", BLANKS + b"sidecar self-test\0" + b"\n" * 32),
]


@pytest.mark.parametrize(("name", "message"), GOOD)
def test_what_is_recognised(name: str, message: bytes) -> None:
    assert recognise(message) == name
    assert len(message) <= MAX_BYTES
    assert [each.name for each in RECOGNISERS if each.knows(message)] == [name]  # no two kinds are one


def test_every_kind_is_tested() -> None:
    assert {each.name for each in RECOGNISERS} == {name for name, _ in GOOD}


def test_the_longest() -> None:
    assert max(len(message) for _, message in GOOD) == MAX_BYTES


@pytest.mark.parametrize(
    "message",
    [
        b"",
        BLANKS,
        handshake(digest=b""),
        handshake(digest=bytes(31)),
        handshake(digest=bytes(33)),
        handshake(digest=bytes(47)),
        handshake(digest=bytes(49)),
        handshake(digest=bytes(64)),
        handshake(b"proxy"),
        handshake(b"Server"),
        handshake(b"server, client"),
        handshake()[1:],
        b" " + handshake(),
        handshake() + b"\n",
        handshake().replace(b"\0", b"", 1),
        handshake().replace(b"1.3", b"1.2"),
        handshake().replace(b"1.3", b"1x3"),
        handshake().replace(b"TLS", b"DTLS"),
        b"\t" + handshake()[1:],
        BLANKS + b"sidecar self-test\0" + bytes(31),
        BLANKS + b"sidecar self-test\0" + bytes(33),
        BLANKS + b"sidecar self-test" + bytes(32)[1:],
        BLANKS + b"sidecar self-test " + bytes(32),
        BLANKS + b"Sidecar self-test\0" + bytes(32),
        BLANKS[1:] + b"sidecar self-test\0" + bytes(32),
        BLANKS + b" sidecar self-test\0" + bytes(32),
    ],
)
def test_near_misses(message: bytes) -> None:
    assert recognise(message) is None


@given(st.sampled_from([message for _, message in GOOD]), st.data())
def test_one_bit_beside_the_hash(message: bytes, data: st.DataObject) -> None:
    """Invariant: each bit before the free part counts, and so does the length."""
    fixed = message.index(b"\0") + 1
    place = data.draw(st.integers(0, fixed * 8 - 1))
    changed = bytearray(message)
    changed[place // 8] ^= 1 << (place % 8)
    assert recognise(bytes(changed)) is None
    assert recognise(message[: data.draw(st.integers(0, fixed + 31))]) is None
    assert recognise(message + data.draw(st.binary(min_size=17, max_size=20))) is None


MESSAGES = st.binary(max_size=200) | st.builds(
    lambda blanks, rest, tail: b" " * blanks + rest + tail,
    st.integers(0, 70),
    st.sampled_from([b"", *(message.lstrip() for _, message in GOOD)]),
    st.binary(max_size=3),
)


@given(MESSAGES)
def test_nothing_else_is_recognised(message: bytes) -> None:
    """Invariant: what does not begin with 64 spaces, a context and a zero byte, is not recognised."""
    if recognise(message) is not None:
        assert message[:64] == BLANKS
        assert re.match(rb"(TLS 1\.3, (server|client) CertificateVerify|sidecar self-test)\0", message[64:])
        assert len(message) <= MAX_BYTES


def test_the_self_test_is_new_each_time() -> None:
    messages = {self_test_message() for _ in range(20)}
    assert len(messages) == 20
    assert {recognise(message) for message in messages} == {"self-test"}
