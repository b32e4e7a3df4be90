from __future__ import annotations

import re

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from sidecar.keys.messages import ALWAYS, MAX_BYTES, Recogniser, Recognisers, self_test_message
from sidecar.keys.token_messages import Client, Mandate
from tests.support.ca import NOW, Ca
from tests.support.signing_inputs import ISSUER, assertion, longest, self_signed

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


PLANNER = Ca().leaf()
KEY = PLANNER.key.public_key()
assert isinstance(KEY, ec.EllipticCurvePublicKey)
ID = str(PLANNER.id)
#: Everything that there is, and the client called as our SPIFFE ID: it makes the two kinds of tokens most alike.
TABLE = Recognisers.of(KEY, Mandate(PLANNER.id, frozenset({Client(ISSUER, ID)})))
TOKENS = [
    ("self-signed-token", self_signed(PLANNER.der, ID, NOW).message),
    ("self-signed-token", longest(PLANNER, NOW).message),
    ("client-assertion", assertion(ID, ISSUER, NOW).message),
]


def recognise(message: bytes) -> str | None:
    return TABLE.recognise(message, NOW)


GOOD = [
    *TOKENS,
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
    assert [each.name for each in TABLE.rows if each.knows(message, NOW)] == [name]  # no two kinds are one


def test_every_kind_is_tested() -> None:
    assert [each.name for each in TABLE.rows] == [
        "tls13-certificate-verify",
        "self-test",
        "self-signed-token",
        "client-assertion",
    ]
    assert {each.name for each in TABLE.rows} == {name for name, _ in GOOD}


def test_the_longest() -> None:
    assert MAX_BYTES == 16 * 1024
    assert MAX_BYTES - 2 <= max(len(message) for _, message in GOOD) <= MAX_BYTES


@pytest.mark.parametrize(
    ("mandate", "expected"),
    [
        (Mandate(), set()),
        (Mandate(PLANNER.id), {"self-signed-token"}),
        (Mandate(clients=frozenset({Client(ISSUER, ID)})), {"client-assertion"}),
        (Mandate(clients=frozenset({Client(ISSUER, "x"), Client("x", ID)})), set()),
        (Mandate(Ca().leaf("/agent/other/1").id, frozenset({Client(ID, ISSUER)})), set()),
    ],
)
def test_tokens_only_where_they_are_named(mandate: Mandate, expected: set[str]) -> None:
    table = Recognisers.of(KEY, mandate)
    assert {table.recognise(message, NOW) for _, message in TOKENS} - {None} == expected
    assert all(table.recognise(message, NOW) == name for name, message in GOOD if (name, message) not in TOKENS)
    assert len(table.rows) == len(ALWAYS) + (mandate.spiffe_id is not None) + bool(mandate.clients)


def test_handshakes_have_no_time() -> None:
    for name, message in GOOD:
        for now in (0.0, NOW + 100, -1.0, float("nan")):
            assert TABLE.recognise(message, now) == (None if (name, message) in TOKENS else name)


def test_an_issuer_gets_no_self_signed_token() -> None:
    """It would be an assertion of that client for an issuer that does not look at typ, and live for longer."""
    message = self_signed(PLANNER.der, ID, NOW, audience=ISSUER).message
    assert Recognisers.of(KEY, Mandate(PLANNER.id)).recognise(message, NOW) == "self-signed-token"
    assert recognise(message) is None


def test_a_table_is_searched_in_order() -> None:
    rows = Recogniser("a", lambda message, _: b"a" in message), Recogniser("now", lambda _, now: now == 5)
    table = Recognisers(rows)
    assert [table.recognise(*each) for each in ((b"a", 5), (b"b", 5), (b"b", 6))] == ["a", "now", None]


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


@given(st.sampled_from([message for _, message in GOOD[len(TOKENS) :]]), st.data())
def test_one_bit_beside_the_hash(message: bytes, data: st.DataObject) -> None:
    """Invariant: each bit before the free part counts, and so does the length."""
    fixed = message.index(b"\0") + 1
    place = data.draw(st.integers(0, fixed * 8 - 1))
    changed = bytearray(message)
    changed[place // 8] ^= 1 << (place % 8)
    assert recognise(bytes(changed)) is None
    assert recognise(message[: data.draw(st.integers(0, fixed + 31))]) is None
    assert recognise(message + data.draw(st.binary(min_size=17, max_size=20))) is None


SHORT = [message for _, message in GOOD if len(message) < 4000]
#: Good ones with more or fewer spaces before and something behind them, and the beginning of one before the end of another.
MESSAGES = (
    st.binary(max_size=200)
    | st.builds(
        lambda blanks, rest, tail: b" " * blanks + rest + tail,
        st.sampled_from([0, 1, 63, 64, 65]),
        st.sampled_from([b"", *(message.lstrip() for message in SHORT)]),
        st.just(b"") | st.binary(max_size=3),
    )
    | st.builds(
        lambda first, second, cut: first[:cut] + second[cut:],
        st.sampled_from(SHORT),
        st.sampled_from(SHORT),
        st.integers(0, 1000),
    )
    | st.builds(
        lambda first, second: b".".join((*first.split(b".")[:1], *second.split(b".")[1:])),
        st.sampled_from(SHORT),
        st.sampled_from(SHORT),
    )
)


@given(MESSAGES)
def test_nothing_is_of_two_kinds(message: bytes) -> None:
    """Invariant: no message is recognised by two rows."""
    known = [row.name for row in TABLE.rows if row.knows(message, NOW)]
    assert len(known) <= 1
    assert recognise(message) == (known[0] if known else None)


@given(MESSAGES)
def test_nothing_else_is_recognised(message: bytes) -> None:
    """Invariant: what is recognised is 64 spaces, a context and a zero byte, or ``eyJ`` and base64url with one dot."""
    found = recognise(message)
    if found is None:
        return
    assert len(message) <= MAX_BYTES
    if message.startswith(b"eyJ"):
        assert found in {"self-signed-token", "client-assertion"}
        assert re.fullmatch(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", message)
    else:
        assert message[:64] == BLANKS
        assert re.match(rb"(TLS 1\.3, (server|client) CertificateVerify|sidecar self-test)\0", message[64:])


def test_the_self_test_is_new_each_time() -> None:
    messages = {self_test_message() for _ in range(20)}
    assert len(messages) == 20
    assert {recognise(message) for message in messages} == {"self-test"}
