"""Every way a TLS connection can fail, as one enum, and the tables that OpenSSL's answers are looked up in.

Nothing here reads message text. OpenSSL says what happened in three machine-readable places: the exception's class,
``SSLError.reason`` (the mnemonic of the error code, from a table compiled into Python; None for a code that Python does
not know) and ``SSLCertVerificationError.verify_code`` (an ``X509_V_ERR_*`` number). What a table does not list becomes
one of the catch-alls, with OpenSSL's own words in the message for people to read.
"""

from __future__ import annotations

import ssl
from enum import StrEnum

from sidecar.errors import LocalError, PeerError, SidecarError


class TlsCode(StrEnum):
    """One value per failure; part of the log format, never renamed."""

    # Not TLS, not ours, not all of it.
    NOT_TLS = "not_tls"
    HTTP_ON_TLS = "http_on_tls"
    PROTOCOL_VERSION = "protocol_version"
    NOTHING_IN_COMMON = "nothing_in_common"
    CLOSED_BEFORE_HELLO = "closed_before_hello"
    HANDSHAKE_TRUNCATED = "handshake_truncated"
    HANDSHAKE_TOO_LARGE = "handshake_too_large"
    BAD_RECORD = "bad_record"
    TRUNCATED = "truncated"
    # The certificate that the peer presented, as OpenSSL judged it; the peer was told by an alert. What
    # ``identity.refusal`` knows too has the same value there: one word per thing.
    NO_CERTIFICATE = "no_certificate"
    BAD_SIGNATURE = "bad_signature"
    AUTHORITY_UNKNOWN = "authority_unknown"
    SIGNATURE_INVALID = "certificate_signature_invalid"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_NOT_YET_VALID = "certificate_not_yet_valid"
    WRONG_PURPOSE = "leaf_wrong_purpose"
    CHAIN_TOO_LONG = "chain_too_long"
    PATH_LENGTH_EXCEEDED = "path_length_exceeded"
    INTERMEDIATE_NOT_AUTHORITY = "intermediate_not_authority"
    NAME_CONSTRAINTS = "certificate_name_constraints"
    HOST_NAME = "certificate_host_mismatch"
    CRITICAL_EXTENSION = "certificate_critical_extension"
    KEY_WEAK = "certificate_key_weak"
    BAD_CERTIFICATE = "bad_certificate"
    # What we refuse ourselves, in silence.
    SESSION_UNKNOWN = "session_unknown"
    SESSION_EXPIRED = "session_expired"
    PEER_NAME = "peer_name_mismatch"
    PEER_PIN = "peer_pin_mismatch"
    # Alerts that the peer sent (RFC 8446 6, RFC 6066 9), by their names in the registry.
    ALERT_UNEXPECTED_MESSAGE = "peer_alert_unexpected_message"
    ALERT_BAD_RECORD_MAC = "peer_alert_bad_record_mac"
    ALERT_DECRYPTION_FAILED = "peer_alert_decryption_failed"
    ALERT_RECORD_OVERFLOW = "peer_alert_record_overflow"
    ALERT_DECOMPRESSION_FAILURE = "peer_alert_decompression_failure"
    ALERT_HANDSHAKE_FAILURE = "peer_alert_handshake_failure"
    ALERT_NO_CERTIFICATE = "peer_alert_no_certificate"
    ALERT_BAD_CERTIFICATE = "peer_alert_bad_certificate"
    ALERT_UNSUPPORTED_CERTIFICATE = "peer_alert_unsupported_certificate"
    ALERT_CERTIFICATE_REVOKED = "peer_alert_certificate_revoked"
    ALERT_CERTIFICATE_EXPIRED = "peer_alert_certificate_expired"
    ALERT_CERTIFICATE_UNKNOWN = "peer_alert_certificate_unknown"
    ALERT_ILLEGAL_PARAMETER = "peer_alert_illegal_parameter"
    ALERT_UNKNOWN_CA = "peer_alert_unknown_ca"
    ALERT_ACCESS_DENIED = "peer_alert_access_denied"
    ALERT_DECODE_ERROR = "peer_alert_decode_error"
    ALERT_DECRYPT_ERROR = "peer_alert_decrypt_error"
    ALERT_EXPORT_RESTRICTION = "peer_alert_export_restriction"
    ALERT_PROTOCOL_VERSION = "peer_alert_protocol_version"
    ALERT_INSUFFICIENT_SECURITY = "peer_alert_insufficient_security"
    ALERT_INTERNAL_ERROR = "peer_alert_internal_error"
    ALERT_INAPPROPRIATE_FALLBACK = "peer_alert_inappropriate_fallback"
    ALERT_USER_CANCELED = "peer_alert_user_canceled"
    ALERT_NO_RENEGOTIATION = "peer_alert_no_renegotiation"
    ALERT_MISSING_EXTENSION = "peer_alert_missing_extension"
    ALERT_UNSUPPORTED_EXTENSION = "peer_alert_unsupported_extension"
    ALERT_CERTIFICATE_UNOBTAINABLE = "peer_alert_certificate_unobtainable"
    ALERT_UNRECOGNIZED_NAME = "peer_alert_unrecognized_name"
    ALERT_BAD_STATUS_RESPONSE = "peer_alert_bad_certificate_status_response"
    ALERT_BAD_HASH_VALUE = "peer_alert_bad_certificate_hash_value"
    ALERT_UNKNOWN_PSK_IDENTITY = "peer_alert_unknown_psk_identity"
    ALERT_CERTIFICATE_REQUIRED = "peer_alert_certificate_required"
    ALERT_NO_APPLICATION_PROTOCOL = "peer_alert_no_application_protocol"
    # Everything else that OpenSSL objects to.
    PROTOCOL_ERROR = "tls_protocol_error"


class TlsError(PeerError):
    """A TLS connection failed, or the peer at its other end was refused.

    ``alert_sent`` says whether the peer is told: True, an alert lies in ``to_send()`` and has to be flushed before the
    socket closes; False, nothing is to be sent any more (and ``to_send()`` gives nothing).
    """

    def __init__(self, code: TlsCode, message: str, *, alert_sent: bool = False, hint: str = "") -> None:
        super().__init__(code, message, hint=hint or HINTS.get(code, ""))
        self.alert_sent = alert_sent


class SigningCode(StrEnum):
    """Where whatever holds our key gives no reason of its own."""

    FAILED = "signing_failed"


class SigningFailedError(LocalError):
    """A handshake failed since our own key did not sign. ``code`` says why; ``alert_sent`` is as in `TlsError`."""

    def __init__(self, code: StrEnum, message: str, *, alert_sent: bool, hint: str = "") -> None:
        super().__init__(code, message, hint=hint)
        self.alert_sent = alert_sent

    @classmethod
    def of(cls, cause: BaseException, *, alert_sent: bool) -> SigningFailedError:
        """Names a failed signature by its cause; one that is no error of ours by its kind alone."""
        if isinstance(cause, SidecarError):
            return cls(cause.code, f"our key did not sign: {cause}", alert_sent=alert_sent, hint=cause.hint)
        kind = type(cause).__name__
        return cls(SigningCode.FAILED, f"our key did not sign: unexpected {kind}", alert_sent=alert_sent)


#: What to change, where the code alone tells it.
HINTS: dict[TlsCode, str] = {
    TlsCode.HTTP_ON_TLS: "the other end speaks plain HTTP to a TLS port: let it connect through a sidecar of its own",
    TlsCode.PROTOCOL_VERSION: "the other end has to speak TLS 1.3",
    TlsCode.NO_CERTIFICATE: "the other end has to present an X.509-SVID",
    TlsCode.AUTHORITY_UNKNOWN: "check that `identity.trust` holds the bundle that this peer's certificate chains to",
    TlsCode.CERTIFICATE_EXPIRED: "renew the other end's certificate, and compare the clocks",
    TlsCode.CERTIFICATE_NOT_YET_VALID: "compare the clocks of both machines",
    TlsCode.BAD_SIGNATURE: "the other end presents a certificate whose private key it does not have",
    TlsCode.ALERT_CERTIFICATE_REQUIRED: "the other end did not get our certificate",
    TlsCode.ALERT_UNKNOWN_CA: "the other end's trust bundle does not hold the authority of our certificate",
    TlsCode.ALERT_CERTIFICATE_EXPIRED: "our certificate has expired, or the other end's clock is ahead",
}

#: ``SSLError.reason`` -> code. The names are those of OpenSSL's sslerr.h without ``SSL_R_``.
REASONS: dict[str, TlsCode] = {
    "HTTP_REQUEST": TlsCode.HTTP_ON_TLS,
    "HTTPS_PROXY_REQUEST": TlsCode.HTTP_ON_TLS,
    "WRONG_VERSION_NUMBER": TlsCode.NOT_TLS,
    "UNSUPPORTED_PROTOCOL": TlsCode.PROTOCOL_VERSION,
    "VERSION_TOO_LOW": TlsCode.PROTOCOL_VERSION,
    "VERSION_TOO_HIGH": TlsCode.PROTOCOL_VERSION,
    "WRONG_SSL_VERSION": TlsCode.PROTOCOL_VERSION,
    "BAD_LEGACY_VERSION": TlsCode.PROTOCOL_VERSION,
    "NO_SHARED_CIPHER": TlsCode.NOTHING_IN_COMMON,
    "NO_SHARED_GROUPS": TlsCode.NOTHING_IN_COMMON,
    "NO_SUITABLE_GROUPS": TlsCode.NOTHING_IN_COMMON,
    "NO_SUITABLE_KEY_SHARE": TlsCode.NOTHING_IN_COMMON,
    "NO_SHARED_SIGNATURE_ALGORITHMS": TlsCode.NOTHING_IN_COMMON,
    "NO_SUITABLE_SIGNATURE_ALGORITHM": TlsCode.NOTHING_IN_COMMON,
    "EXCESSIVE_MESSAGE_SIZE": TlsCode.HANDSHAKE_TOO_LARGE,
    "BAD_RECORD_TYPE": TlsCode.BAD_RECORD,
    "DATA_LENGTH_TOO_LONG": TlsCode.BAD_RECORD,
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": TlsCode.BAD_RECORD,
    "ENCRYPTED_LENGTH_TOO_LONG": TlsCode.BAD_RECORD,
    "LENGTH_TOO_SHORT": TlsCode.BAD_RECORD,
    "PACKET_LENGTH_TOO_LONG": TlsCode.BAD_RECORD,
    "RECORD_LAYER_FAILURE": TlsCode.BAD_RECORD,
    "RECORD_LENGTH_MISMATCH": TlsCode.BAD_RECORD,
    "RECORD_TOO_SMALL": TlsCode.BAD_RECORD,
    "UNEXPECTED_EOF_WHILE_READING": TlsCode.TRUNCATED,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": TlsCode.NO_CERTIFICATE,
    "BAD_SIGNATURE": TlsCode.BAD_SIGNATURE,
    "EE_KEY_TOO_SMALL": TlsCode.KEY_WEAK,
    "CA_KEY_TOO_SMALL": TlsCode.KEY_WEAK,
    "CA_MD_TOO_WEAK": TlsCode.KEY_WEAK,
    "SSLV3_ALERT_UNEXPECTED_MESSAGE": TlsCode.ALERT_UNEXPECTED_MESSAGE,
    "SSLV3_ALERT_BAD_RECORD_MAC": TlsCode.ALERT_BAD_RECORD_MAC,
    "TLSV1_ALERT_DECRYPTION_FAILED": TlsCode.ALERT_DECRYPTION_FAILED,
    "TLSV1_ALERT_RECORD_OVERFLOW": TlsCode.ALERT_RECORD_OVERFLOW,
    "SSLV3_ALERT_DECOMPRESSION_FAILURE": TlsCode.ALERT_DECOMPRESSION_FAILURE,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": TlsCode.ALERT_HANDSHAKE_FAILURE,
    "SSLV3_ALERT_NO_CERTIFICATE": TlsCode.ALERT_NO_CERTIFICATE,
    "SSLV3_ALERT_BAD_CERTIFICATE": TlsCode.ALERT_BAD_CERTIFICATE,
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": TlsCode.ALERT_UNSUPPORTED_CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_REVOKED": TlsCode.ALERT_CERTIFICATE_REVOKED,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": TlsCode.ALERT_CERTIFICATE_EXPIRED,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": TlsCode.ALERT_CERTIFICATE_UNKNOWN,
    "SSLV3_ALERT_ILLEGAL_PARAMETER": TlsCode.ALERT_ILLEGAL_PARAMETER,
    "TLSV1_ALERT_UNKNOWN_CA": TlsCode.ALERT_UNKNOWN_CA,
    "TLSV1_ALERT_ACCESS_DENIED": TlsCode.ALERT_ACCESS_DENIED,
    "TLSV1_ALERT_DECODE_ERROR": TlsCode.ALERT_DECODE_ERROR,
    "TLSV1_ALERT_DECRYPT_ERROR": TlsCode.ALERT_DECRYPT_ERROR,
    "TLSV1_ALERT_EXPORT_RESTRICTION": TlsCode.ALERT_EXPORT_RESTRICTION,
    "TLSV1_ALERT_PROTOCOL_VERSION": TlsCode.ALERT_PROTOCOL_VERSION,
    "TLSV1_ALERT_INSUFFICIENT_SECURITY": TlsCode.ALERT_INSUFFICIENT_SECURITY,
    "TLSV1_ALERT_INTERNAL_ERROR": TlsCode.ALERT_INTERNAL_ERROR,
    "TLSV1_ALERT_INAPPROPRIATE_FALLBACK": TlsCode.ALERT_INAPPROPRIATE_FALLBACK,
    "TLSV1_ALERT_USER_CANCELLED": TlsCode.ALERT_USER_CANCELED,
    "TLSV1_ALERT_NO_RENEGOTIATION": TlsCode.ALERT_NO_RENEGOTIATION,
    "TLSV13_ALERT_MISSING_EXTENSION": TlsCode.ALERT_MISSING_EXTENSION,
    "TLSV1_UNSUPPORTED_EXTENSION": TlsCode.ALERT_UNSUPPORTED_EXTENSION,
    "TLSV1_CERTIFICATE_UNOBTAINABLE": TlsCode.ALERT_CERTIFICATE_UNOBTAINABLE,
    "TLSV1_UNRECOGNIZED_NAME": TlsCode.ALERT_UNRECOGNIZED_NAME,
    "TLSV1_BAD_CERTIFICATE_STATUS_RESPONSE": TlsCode.ALERT_BAD_STATUS_RESPONSE,
    "TLSV1_BAD_CERTIFICATE_HASH_VALUE": TlsCode.ALERT_BAD_HASH_VALUE,
    "TLSV1_ALERT_UNKNOWN_PSK_IDENTITY": TlsCode.ALERT_UNKNOWN_PSK_IDENTITY,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": TlsCode.ALERT_CERTIFICATE_REQUIRED,
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": TlsCode.ALERT_NO_APPLICATION_PROTOCOL,
}

#: ``X509_V_ERR_*`` (OpenSSL's x509_vfy.h) -> code.
VERIFY_CODES: dict[int, TlsCode] = {
    2: TlsCode.AUTHORITY_UNKNOWN,  # UNABLE_TO_GET_ISSUER_CERT
    7: TlsCode.SIGNATURE_INVALID,  # CERT_SIGNATURE_FAILURE
    9: TlsCode.CERTIFICATE_NOT_YET_VALID,  # CERT_NOT_YET_VALID
    10: TlsCode.CERTIFICATE_EXPIRED,  # CERT_HAS_EXPIRED
    18: TlsCode.AUTHORITY_UNKNOWN,  # DEPTH_ZERO_SELF_SIGNED_CERT
    19: TlsCode.AUTHORITY_UNKNOWN,  # SELF_SIGNED_CERT_IN_CHAIN
    20: TlsCode.AUTHORITY_UNKNOWN,  # UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    21: TlsCode.AUTHORITY_UNKNOWN,  # UNABLE_TO_VERIFY_LEAF_SIGNATURE
    22: TlsCode.CHAIN_TOO_LONG,  # CERT_CHAIN_TOO_LONG
    25: TlsCode.PATH_LENGTH_EXCEEDED,  # PATH_LENGTH_EXCEEDED
    26: TlsCode.WRONG_PURPOSE,  # INVALID_PURPOSE
    32: TlsCode.INTERMEDIATE_NOT_AUTHORITY,  # KEYUSAGE_NO_CERTSIGN
    34: TlsCode.CRITICAL_EXTENSION,  # UNHANDLED_CRITICAL_EXTENSION
    47: TlsCode.NAME_CONSTRAINTS,  # PERMITTED_VIOLATION
    48: TlsCode.NAME_CONSTRAINTS,  # EXCLUDED_VIOLATION
    49: TlsCode.NAME_CONSTRAINTS,  # SUBTREE_MINMAX
    51: TlsCode.NAME_CONSTRAINTS,  # UNSUPPORTED_CONSTRAINT_TYPE
    52: TlsCode.NAME_CONSTRAINTS,  # UNSUPPORTED_CONSTRAINT_SYNTAX
    53: TlsCode.NAME_CONSTRAINTS,  # UNSUPPORTED_NAME_SYNTAX
    62: TlsCode.HOST_NAME,  # HOSTNAME_MISMATCH
    64: TlsCode.HOST_NAME,  # IP_ADDRESS_MISMATCH
    66: TlsCode.KEY_WEAK,  # EE_KEY_TOO_SMALL
    67: TlsCode.KEY_WEAK,  # CA_KEY_TOO_SMALL
    68: TlsCode.KEY_WEAK,  # CA_MD_TOO_WEAK
    79: TlsCode.INTERMEDIATE_NOT_AUTHORITY,  # INVALID_CA
}


def code_of(error: ssl.SSLError) -> TlsCode:
    """Returns the code of what OpenSSL reported; never raises and never reads the message."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return VERIFY_CODES.get(error.verify_code, TlsCode.BAD_CERTIFICATE)
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return TlsCode.TRUNCATED
    return REASONS.get(reason_of(error), TlsCode.PROTOCOL_ERROR)


def reason_of(error: ssl.SSLError) -> str:
    """Returns OpenSSL's mnemonic, or "" where there is none; Python sets the attribute only on errors of its own."""
    return getattr(error, "reason", None) or ""


def is_alert(code: TlsCode) -> bool:
    """Says whether the code stands for an alert that the peer sent, so that none goes back."""
    return code.name.startswith("ALERT_")
