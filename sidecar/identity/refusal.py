"""Why a peer's chain is refused: one value for each defect, and the error that carries it."""

from __future__ import annotations

from enum import StrEnum

from sidecar.errors import PeerError


class Refusal(StrEnum):
    """A defect of a presented chain. "Intermediate" is a presented signing certificate, "authority" one of ours."""

    # What was presented, before anything of it is read.
    CHAIN_EMPTY = "chain_empty"
    CHAIN_TOO_LONG = "chain_too_long"
    CHAIN_TOO_LARGE = "chain_too_large"
    LEAF_TOO_LARGE = "leaf_too_large"

    # Any certificate of it.
    CERTIFICATE_MALFORMED = "certificate_malformed"
    CERTIFICATE_NOT_V3 = "certificate_not_v3"
    SERIAL_INVALID = "certificate_serial_invalid"
    SIGNATURE_UNSUPPORTED = "certificate_signature_unsupported"
    CRITICAL_EXTENSION = "certificate_critical_extension"
    NAME_CONSTRAINTS = "certificate_name_constraints"
    KEY_UNSUPPORTED = "certificate_key_unsupported"
    KEY_WEAK = "certificate_key_weak"
    KEY_OVERSIZED = "certificate_key_oversized"

    # The leaf.
    NO_SPIFFE_ID = "leaf_no_spiffe_id"
    SEVERAL_URI_NAMES = "leaf_several_uri_names"
    SPIFFE_ID_INVALID = "leaf_spiffe_id_invalid"
    SPIFFE_ID_WITHOUT_PATH = "leaf_spiffe_id_without_path"
    TRUST_DOMAIN_UNKNOWN = "trust_domain_unknown"
    LEAF_IS_AUTHORITY = "leaf_is_authority"
    KEY_USAGE_MISSING = "leaf_key_usage_missing"
    KEY_USAGE_NOT_CRITICAL = "leaf_key_usage_not_critical"
    LEAF_SIGNS_CERTIFICATES = "leaf_signs_certificates"
    LEAF_SIGNS_CRLS = "leaf_signs_crls"
    LEAF_NO_DIGITAL_SIGNATURE = "leaf_no_digital_signature"
    WRONG_PURPOSE = "leaf_wrong_purpose"

    # Intermediates.
    INTERMEDIATE_NOT_AUTHORITY = "intermediate_not_authority"
    INTERMEDIATE_NO_CERT_SIGN = "intermediate_no_cert_sign"
    INTERMEDIATE_WRONG_PURPOSE = "intermediate_wrong_purpose"
    INTERMEDIATE_SPIFFE_ID_INVALID = "intermediate_spiffe_id_invalid"
    INTERMEDIATE_FOREIGN = "intermediate_foreign_trust_domain"

    # Time.
    EXPIRED = "certificate_expired"
    NOT_YET_VALID = "certificate_not_yet_valid"
    INTERMEDIATE_EXPIRED = "intermediate_expired"
    INTERMEDIATE_NOT_YET_VALID = "intermediate_not_yet_valid"
    AUTHORITY_EXPIRED = "authority_expired"
    AUTHORITY_NOT_YET_VALID = "authority_not_yet_valid"

    # The path.
    AUTHORITY_UNKNOWN = "authority_unknown"
    SIGNATURE_INVALID = "certificate_signature_invalid"
    PATH_LENGTH_EXCEEDED = "path_length_exceeded"
    PATH_INVALID = "path_invalid"


class VerificationError(PeerError):
    """A presented chain proves no identity; ``code`` is a :class:`Refusal`."""

    code: Refusal

    def __init__(self, code: Refusal, message: str, *, hint: str = "") -> None:
        super().__init__(code, message, hint=hint)
