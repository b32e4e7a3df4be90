"""Why development identities are not made."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from sidecar.errors import ConfigurationError, LocalError

if TYPE_CHECKING:
    from pathlib import Path


class DevCertsCode(StrEnum):
    """One value per defect; part of the output, never renamed."""

    NAME_INVALID = "certs_name_invalid"
    NAME_RESERVED = "certs_name_reserved"
    NAMES_COLLIDE = "certs_names_collide"
    TRUST_DOMAIN_INVALID = "certs_trust_domain_invalid"
    NOT_A_FOLDER = "certs_not_a_folder"
    NOT_A_FILE = "certs_not_a_file"
    FILE_TOO_LARGE = "certs_file_too_large"
    KEY_INVALID = "certs_key_invalid"
    KEY_EXPOSED = "certs_key_exposed"
    KEY_LOST = "certs_key_lost"
    KEY_MISMATCH = "certs_key_mismatch"
    KEY_ELSEWHERE = "certs_key_elsewhere"
    KEY_PLACE_INVALID = "certs_key_place_invalid"
    CERTIFICATE_INVALID = "certs_certificate_invalid"
    AUTHORITY_FOREIGN = "certs_authority_foreign"
    TRUST_DOMAIN_FOREIGN = "certs_trust_domain_foreign"
    CERTIFICATE_FOREIGN = "certs_certificate_foreign"
    IDENTITY_OTHER = "certs_identity_other"
    BUSY = "certs_busy"
    IO = "certs_io"


class DevCertsError(ConfigurationError):
    """The command line asks for what cannot be, or the folder holds files that are not ours."""


class FolderError(LocalError):
    """This machine cannot read or write the folder, or somebody else works in it."""


def io_error(doing: str, path: Path, error: OSError) -> FolderError:
    """What the system said, with the path it was about: ``cannot write /x/y: No space left on device``."""
    return FolderError(DevCertsCode.IO, f"cannot {doing} {path}: {error.strerror or type(error).__name__}")
