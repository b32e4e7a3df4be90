"""Why a private key cannot be used."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from sidecar.errors import ConfigurationError, LocalError


class KeyCode(StrEnum):
    """One value per defect; part of the output and of the log, never renamed."""

    UNKNOWN_KIND = "key_kind_unknown"
    NO_KEY = "key_absent"
    SEVERAL_KEYS = "key_ambiguous"
    ENCRYPTED = "key_encrypted"
    GARBAGE = "key_garbage"
    UNSUPPORTED = "key_unsupported"
    #: The place of a key is not written as it should be: an unknown or missing part of ``tpm:`` or ``pkcs11:``.
    BAD_PLACE = "key_place_invalid"
    #: A secret stands where only a reference to one may.
    SECRET = "key_secret_in_place"  # noqa: S105 - a code
    #: The file that holds the PIN is empty or no text.
    BAD_PIN = "key_pin_unusable"
    #: A library that this kind of key needs is not installed, or does not load.
    NO_LIBRARY = "key_library_missing"
    #: The key can be copied out of its device.
    COPYABLE = "key_copyable"
    #: A key is already there; nothing is overwritten.
    EXISTS = "key_exists"
    #: The interpreter's OpenSSL cannot use a key that is not in its memory.
    OPENSSL = "key_openssl_unsuitable"
    #: The certificate is for another key.
    MISMATCH = "key_certificate_mismatch"


class PrivateKeyError(ConfigurationError):
    """The key that the configuration names is not one that can be used. Messages never hold any part of the key."""


class SignCode(StrEnum):
    """Why a key that is configured rightly does not sign; part of the log and of metrics, never renamed."""

    #: The device or service is not there, or broke off.
    UNAVAILABLE = "signer_unavailable"
    #: It did not answer within its time limit.
    TIMEOUT = "signer_timeout"
    #: It refused our PIN. Never tried again: each try feeds its lockout.
    AUTH = "signer_auth_failed"
    #: It refuses every PIN for a while, or until an administrator resets it.
    LOCKOUT = "signer_lockout"
    #: It has no room for one more key or session.
    FULL = "signer_full"
    #: There is no such key in it, or another one in its place.
    NO_KEY = "signer_key_gone"
    #: It is a service that does not sign such messages, or not for us.
    REFUSED = "signer_refused"
    #: What it returned is no signature by the key.
    BAD_SIGNATURE = "signer_bad_signature"
    #: We have let go of it.
    CLOSED = "signer_closed"
    #: Anything else that the device says.
    FAILED = "signer_failed"


#: What trying again cannot mend; a restart or a reload with another PIN or key does.
FINAL: Final = frozenset({SignCode.AUTH, SignCode.CLOSED})


class SignError(LocalError):
    """A signature could not be had. Messages never hold a PIN or any part of a key."""

    def __init__(self, code: SignCode, message: str, *, hint: str = "") -> None:
        super().__init__(code, message, hint=hint)
        self.code: SignCode = code
