"""Why a private key cannot be used."""

from __future__ import annotations

from enum import StrEnum

from sidecar.errors import ConfigurationError


class KeyCode(StrEnum):
    """One value per defect; part of the output and of the log, never renamed."""

    UNKNOWN_KIND = "key_kind_unknown"
    NO_KEY = "key_absent"
    SEVERAL_KEYS = "key_ambiguous"
    ENCRYPTED = "key_encrypted"
    GARBAGE = "key_garbage"
    UNSUPPORTED = "key_unsupported"


class PrivateKeyError(ConfigurationError):
    """The key that the configuration names is not one that can be used. Messages never hold any part of the key."""
