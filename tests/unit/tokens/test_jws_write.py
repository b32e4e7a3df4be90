"""What is written is what everybody else reads: another library verifies it, and our own recognisers know it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import threading
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.signer import Hash
from sidecar.tokens import jws_write
from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.jws import parse
from sidecar.tokens.jws_write import algorithm, raw_signature, signed, signing_input
from tests.support.lent import PLANNER_384, TellingSigner, failing
from tests.support.signers import SUBJECTS, subject
from tests.support.tls import PLANNER
from tests.support.tokens import means, means_of

if TYPE_CHECKING:
    from sidecar.keys.signer import Signer

CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1}
SIZES = {Hash.SHA256: 32, Hash.SHA384: 48}


@pytest.mark.parametrize("alg", CURVES)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.needs(*SUBJECTS[n][0])) for n in ("software", "pkcs11", "tpm-file")]
)
async def test_another_library_verifies_it(name: str, alg: str) -> None:
    with subject(name, CURVES[alg]) as made:
        key = made.signer.public_key
        assert algorithm(key) == alg
        # Often enough for numbers that are shorter than their field, which DER writes shorter.
        for number in range(40 if name == "software" else 1):
            token = await signed(means_of(made.signer), {"alg": alg, "typ": "JWT"}, {"iss": "a", "n": number})
            assert jwt.decode(token, key=key, algorithms=[alg]) == {"iss": "a", "n": number}


def test_the_signing_input_is_compact_ascii_in_the_order_given() -> None:
    header, claims = signing_input({"typ": "JWT", "alg": "ES256"}, {"b": ["é", 1], "a": {"x": "/"}}).split(b".")
    assert parse(header + b"." + claims + b".AAAA").claims == {"b": ["é", 1], "a": {"x": "/"}}
    assert header == b"eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NiJ9"
    assert json.loads(_decoded(claims)) == {"b": ["é", 1], "a": {"x": "/"}}
    assert _decoded(claims) == rb'{"b":["\u00e9",1],"a":{"x":"/"}}'


def _decoded(part: bytes) -> bytes:
    return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))


@given(st.sampled_from(list(Hash)), st.data())
def test_a_signature_is_always_of_the_same_length(hash_: Hash, data: st.DataObject) -> None:
    """R and S come out of the fixed-length form as they went into DER, whatever their own lengths."""
    size = SIZES[hash_]
    r, s = (data.draw(st.integers(1, 2 ** (8 * size) - 1)) for _ in range(2))
    raw = raw_signature(encode_dss_signature(r, s), hash_)
    assert len(raw) == 2 * size
    assert (int.from_bytes(raw[:size], "big"), int.from_bytes(raw[size:], "big")) == (r, s)


@given(st.binary(max_size=200), st.sampled_from(list(Hash)))
def test_whatever_a_device_returns_is_a_signature_or_a_value_error(data: bytes, hash_: Hash) -> None:
    """`raw_signature` returns 2 * size octets or raises ValueError, and nothing else."""
    with contextlib.suppress(ValueError):
        assert len(raw_signature(data, hash_)) == 2 * SIZES[hash_]


async def fails(signer: Signer, **more: Any) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await signed(means(signer=signer, **more), {"alg": "ES256"}, {})
    return caught.value


@pytest.mark.parametrize("code", SignCode)
async def test_a_key_that_does_not_sign(code: SignCode) -> None:
    error = await fails(TellingSigner(PLANNER, failing(code)))
    assert error.code is SourceCode.SIGNING
    assert code in str(error)
    assert error.hint == "as the test hints"
    assert isinstance(error.__cause__, SignError)


@pytest.mark.parametrize("signature", [b"", b"\x30\x00", b"secret", encode_dss_signature(2**256, 1)])
async def test_what_is_no_signature(signature: bytes) -> None:
    error = await fails(TellingSigner(PLANNER, lambda _message, _hash: signature))
    assert error.code is SourceCode.SIGNING
    assert "secret" not in repr(error) + repr(error.__context__)


async def test_the_hash_is_that_of_the_curve() -> None:
    for identity, hash_ in ((PLANNER, Hash.SHA256), (PLANNER_384, Hash.SHA384)):
        signer = TellingSigner(identity)
        await signed(means(identity, signer), {"alg": algorithm(signer.public_key)}, {"a": 1})
        assert [asked.hash for asked in signer.asked] == [hash_]


async def test_a_device_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jws_write, "SIGN_SECONDS", 0.05)
    go_on = threading.Event()
    error = await fails(TellingSigner(PLANNER, lambda _message, _hash: go_on.wait(20)))
    assert error.code is SourceCode.SIGNING
    assert "0.05 s" in str(error)
    go_on.set()


async def test_it_signs_in_a_thread() -> None:
    seen: list[int] = []
    signer = TellingSigner(
        PLANNER, lambda message, hash_: seen.append(threading.get_ident()) or signer.right(message, hash_)
    )
    await signed(means(signer=signer), {"alg": "ES256"}, {})
    assert seen != [threading.get_ident()]
    assert asyncio.get_running_loop().is_running()
