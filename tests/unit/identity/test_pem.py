from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.identity.pem import Block, PemError, blocks

ONE = b"-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n"


def test_block_is_decoded() -> None:
    (block,) = blocks(ONE)
    assert block == Block("CERTIFICATE", b"AQID", 1)
    assert block.der() == b"\1\2\3"
    assert (block.is_certificate, block.is_private_key) == (True, False)


@pytest.mark.parametrize(
    "text",
    [
        ONE.replace(b"\n", b"\r\n"),
        ONE.replace(b"\n", b"\r"),
        ONE.removesuffix(b"\n"),
        ONE.replace(b"AQID", b"AQ\nID"),
        ONE.replace(b"\n", b"  \t\n"),
        b"subject: C=XX, O=Example\n  ---- dashes ----\n\n" + ONE + b"and more\n",
    ],
    ids=["crlf", "cr", "no-final-newline", "two-lines", "blanks", "text-around"],
)
def test_spellings_of_one_block(text: bytes) -> None:
    assert [block.der() for block in blocks(text)] == [b"\1\2\3"]


def test_blocks_keep_their_order_and_line_numbers() -> None:
    key = ONE.replace(b"CERTIFICATE", b"EC PRIVATE KEY")
    assert [(block.label, block.line) for block in blocks(ONE + key + ONE)] == [
        ("CERTIFICATE", 1),
        ("EC PRIVATE KEY", 4),
        ("CERTIFICATE", 7),
    ]


@pytest.mark.parametrize(
    "label", ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "OPENSSH PRIVATE KEY"]
)
def test_private_keys_are_known_by_their_label(label: str) -> None:
    assert Block(label, b"", 1).is_private_key


def test_no_block() -> None:
    assert blocks(b"") == blocks(b"nothing here\n") == []


@pytest.mark.parametrize(
    "text",
    [
        ONE[:40],
        ONE.replace(b"-----END", b"----END"),
        ONE.replace(b"-----BEGIN", b"----BEGIN"),
        ONE.replace(b"CERTIFICATE-----\nA", b"CERTIFICATE----\nA"),
        ONE.replace(b"CERTIFICATE-----\nA", b"CERTIFICATE\nA"),
        ONE.replace(b"CERTIFICATE-----\nA", b"CERTIFICATE----- x\nA"),
        ONE.replace(b"END CERTIFICATE", b"END PRIVATE KEY"),
        ONE.replace(b"CERTIFICATE", b""),
        ONE.replace(b"CERTIFICATE", b"certificate"),
        ONE.replace(b"CERTIFICATE", b"CERT\xc3\x89"),
        ONE.replace(b"CERTIFICATE", b"A-----BEGIN B"),
        b"\xef\xbb\xbf" + ONE,
        b"x" + ONE,
        b"-----BEGIN CERTIFICATE-----\n" + ONE,
        ONE + b"-----END CERTIFICATE-----\n",
    ],
    ids=[
        "cut-off",
        "end-short-of-a-dash",
        "begin-short-of-a-dash",
        "label-short-of-a-dash",
        "label-without-dashes",
        "text-after-boundary",
        "other-label-at-end",
        "no-label",
        "lower-case-label",
        "label-not-ascii",
        "boundary-in-label",
        "byte-order-mark",
        "text-before-boundary",
        "begin-twice",
        "end-twice",
    ],
)
def test_damaged_boundary_is_refused(text: bytes) -> None:
    with pytest.raises(PemError):
        blocks(text)


@pytest.mark.parametrize("body", [b"AQI", b"AQ*D", b"AQ ID", b"Proc-Type: 4,ENCRYPTED", b"AQID=", b"\xff"])
def test_body_that_is_not_base64_is_refused(body: bytes) -> None:
    with pytest.raises(PemError) as caught:
        Block("CERTIFICATE", body, 3).der()
    assert "line 3" in str(caught.value)


@given(st.lists(st.sampled_from([*ONE.splitlines(keepends=True), b"-----END X-----\n", b"secret\n", b"-----BEGIN "])))
def test_any_lines_are_blocks_or_the_one_error(lines: list[bytes]) -> None:
    """Any sequence of lines is whole blocks or PemError, whose text quotes nothing of the file."""
    found = outcome(b"".join(lines))
    if isinstance(found, PemError):
        assert "secret" not in str(found)
    else:
        assert all(block.is_certificate or block.label == "X" for block in found)


def outcome(pem: bytes) -> list[Block] | PemError:
    try:
        return blocks(pem)
    except PemError as error:
        return error
