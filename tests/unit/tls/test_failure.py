"""The tables that OpenSSL's answers are looked up in."""

from __future__ import annotations

import _ssl
import ctypes
import re
import ssl

import pytest

from sidecar.errors import Fault
from sidecar.tls.engine import TlsEngine
from sidecar.tls.failure import HINTS, REASONS, VERIFY_CODES, TlsCode, TlsError, code_of, is_alert
from tests.support.tls import Ours, planner_context

#: RFC 8446 6 and its predecessors: what a peer can send, by number.
ALERTS = {
    10: "unexpected_message",
    20: "bad_record_mac",
    21: "decryption_failed",
    22: "record_overflow",
    30: "decompression_failure",
    40: "handshake_failure",
    41: "no_certificate",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    60: "export_restriction",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",
    100: "no_renegotiation",
    109: "missing_extension",
    110: "unsupported_extension",
    111: "certificate_unobtainable",
    112: "unrecognized_name",
    113: "bad_certificate_status_response",
    114: "bad_certificate_hash_value",
    116: "certificate_required",
}

#: In OpenSSL's newer releases alone.
NEWER_REASONS = {"RECORD_LAYER_FAILURE", "TLSV1_ALERT_UNKNOWN_PSK_IDENTITY", "TLSV1_ALERT_NO_APPLICATION_PROTOCOL"}


def fatal_alert(number: int) -> Ours:
    """A client that was answered with that alert, which is a plaintext record there (RFC 8446 6)."""
    client = Ours(TlsEngine(planner_context()))
    client.turn()
    assert client.to_send()
    client.receive(bytes((21, 3, 3, 0, 2, 2, number)))
    client.turn()
    return client


@pytest.mark.parametrize(("number", "name"), ALERTS.items(), ids=ALERTS.values())
def test_every_alert_has_its_own_code(number: int, name: str) -> None:
    client = fatal_alert(number)
    assert client.code == f"peer_alert_{name}"
    assert isinstance(client.error, TlsError)
    assert not client.error.alert_sent
    assert client.to_send() == b""


@pytest.mark.parametrize("number", [1, 123, 255])
def test_an_alert_that_nobody_knows_is_a_protocol_error(number: int) -> None:
    assert fatal_alert(number).code == TlsCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("number", "reason"), [(115, "TLSV1_ALERT_UNKNOWN_PSK_IDENTITY"), (120, "TLSV1_ALERT_NO_APPLICATION_PROTOCOL")]
)
def test_the_youngest_alerts_have_codes_where_openssl_and_python_know_them(number: int, reason: str) -> None:
    client = fatal_alert(number)
    assert client.error is not None
    cause = client.error.__cause__
    assert isinstance(cause, ssl.SSLError)
    assert cause.reason in {None, reason}
    assert client.code == (REASONS[reason] if cause.reason else TlsCode.PROTOCOL_ERROR)


def test_every_mnemonic_in_the_table_is_one_of_openssls() -> None:
    """A mnemonic is the reason's text in capitals; a spelling mistake in the table would never match anything."""
    library = ctypes.CDLL(_ssl.__file__)
    library.ERR_reason_error_string.restype = ctypes.c_char_p
    library.ERR_reason_error_string.argtypes = [ctypes.c_ulong]
    library_ssl, shift = 20, 23
    texts = (library.ERR_reason_error_string(library_ssl << shift | reason) for reason in range(1, 1400))
    mnemonics = {text.decode().upper().replace(" ", "_") for text in texts if text}
    assert len(mnemonics) > 100
    assert set(REASONS) - NEWER_REASONS <= mnemonics


def test_an_error_without_a_mnemonic_is_the_catch_all() -> None:
    assert code_of(ssl.SSLError(1, "whatever")) is TlsCode.PROTOCOL_ERROR


def test_the_message_is_not_looked_at() -> None:
    assert code_of(ssl.SSLError(1, "[SSL: HTTP_REQUEST] http request (_ssl.c:1006)")) is TlsCode.PROTOCOL_ERROR


def test_an_unexpected_end_has_its_code_by_class() -> None:
    assert code_of(ssl.SSLEOFError(8, "")) is TlsCode.TRUNCATED
    assert code_of(ssl.SSLZeroReturnError(6, "")) is TlsCode.TRUNCATED


@pytest.mark.parametrize(("number", "code"), [*VERIFY_CODES.items(), (1, TlsCode.BAD_CERTIFICATE)])
def test_a_refused_certificate_is_looked_up_by_its_verify_code(number: int, code: TlsCode) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code = number
    assert code_of(error) is code


def test_codes_are_stable_words() -> None:
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code.value) for code in TlsCode)


def test_only_alerts_from_the_peer_count_as_such() -> None:
    assert {code for code in TlsCode if is_alert(code)} == {
        code for code in TlsCode if code.value.startswith("peer_alert_")
    }


def test_an_error_says_what_to_change_and_who_has_to() -> None:
    error = TlsError(TlsCode.HTTP_ON_TLS, "no TLS")
    assert (error.fault, error.hint, error.alert_sent) == (Fault.PEER, HINTS[TlsCode.HTTP_ON_TLS], False)
    assert TlsError(TlsCode.HTTP_ON_TLS, "no TLS", hint="another").hint == "another"
    assert TlsError(TlsCode.BAD_RECORD, "odd").hint == ""
