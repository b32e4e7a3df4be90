"""What is wrong with a configuration: every fault at once, each with its place and what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sidecar.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.config.files import Snapshot
    from sidecar.errors import SidecarError

#: Faults that are kept of one file. A file with more is broken in one place that repeats.
MOST = 100
#: Characters of a value that a message quotes, and of a whole message: a value may be as long as the file.
_QUOTED = 60
_MESSAGE = 500
#: What marks a text as holding a secret: a PEM private key, a PIN inside a key URI (RFC 7512 2.4).
_SECRET = re.compile(r"PRIVATE KEY-----|pin-value", re.IGNORECASE)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.:/-]{1,60}")


class ConfigCode(StrEnum):
    """One value per defect that the configuration itself finds; identities, pins and paths bring their own codes."""

    INVALID = "invalid_configuration"
    # Files, the configuration's own and those it names
    FILE_MISSING = "file_missing"
    FILE_UNREADABLE = "file_unreadable"
    FILE_NOT_REGULAR = "file_not_regular"
    FILE_TOO_LARGE = "file_too_large"
    FILE_EMPTY = "file_empty"
    FILE_CHANGING = "file_changing"
    KEY_PERMISSIONS = "key_file_permissions"
    KEY_OWNER = "key_file_owner"
    # The text
    NOT_UTF8 = "not_utf8"
    BAD_CHARACTER = "bad_character"
    SYNTAX = "yaml_syntax"
    TOO_DEEP = "yaml_too_deep"
    ALIAS = "yaml_alias"
    TAG = "yaml_tag"
    SEVERAL_DOCUMENTS = "yaml_several_documents"
    BAD_KEY = "yaml_key"
    DUPLICATE_KEY = "duplicate_key"
    SECRET = "secret_in_file"  # noqa: S105 - a code, not a secret
    # Secrets and authorities that it names
    ENV_UNSET = "environment_unset"
    BAD_SECRET = "bad_secret"  # noqa: S105 - a code
    BAD_CA = "bad_ca_file"
    # The shape
    WRONG_TYPE = "wrong_type"
    NO_VALUE = "no_value"
    UNKNOWN_KEY = "unknown_key"
    MISPLACED_KEY = "misplaced_key"
    MISSING_KEY = "missing_key"
    EMPTY_LIST = "empty_list"
    DUPLICATE_ITEM = "duplicate_item"
    NOT_SERVED = "not_served"
    # Single values
    BAD_VERSION = "bad_version"
    BAD_NAME = "bad_name"
    BAD_PATH = "bad_path"
    BAD_NUMBER = "bad_number"
    BAD_DURATION = "bad_duration"
    BAD_SIZE = "bad_size"
    BAD_CHOICE = "bad_choice"
    BAD_ADDRESS = "bad_address"
    BAD_URL = "bad_url"
    BAD_HOST = "bad_host"
    BAD_METHOD = "bad_method"
    BAD_TEXT = "bad_text"
    BAD_SCOPE = "bad_scope"
    BAD_ALGORITHM = "bad_algorithm"
    BAD_CLAIM = "bad_claim"
    BAD_FIELD_NAME = "bad_field_name"
    OUT_OF_RANGE = "out_of_range"
    NOT_FOR_TCP = "not_for_tcp"
    NOT_FOR_HTTP = "not_for_http"
    NOT_FOR_PUBLIC = "not_for_public"
    ONLY_FOR_PUBLIC = "only_for_public"
    NOT_FOR_PASSTHROUGH = "not_for_passthrough"
    SOCKET_PATH_TOO_LONG = "socket_path_too_long"
    ADMIN_ON_TCP = "admin_on_tcp"
    # What only shows in the whole
    NO_CALLER = "no_caller"
    NO_PEER = "no_peer"
    NO_ENTRY = "no_entry"
    NO_PINS = "no_pins"
    NO_AUDIENCE = "no_audience"
    NO_TOKEN = "no_token"  # noqa: S105 - a code
    DUPLICATE_NAME = "duplicate_name"
    RESERVED_NAME = "reserved_name"
    DUPLICATE_LISTEN = "duplicate_listen"
    DUPLICATE_HOST = "duplicate_host"
    NO_HOSTS = "no_hosts"
    LISTEN_DISAGREES = "listen_disagrees"
    FORWARD_TO_SELF = "forward_to_self"
    PLAINTEXT_FORWARD = "plaintext_forward"
    PLAINTEXT_LISTEN = "plaintext_listen"
    UIDS_UNKNOWN = "uids_unknown"
    PLAINTEXT_ISSUER = "plaintext_issuer"
    PRIVATE_ADDRESS = "private_address"
    BOUND_TOKEN = "bound_token"  # noqa: S105 - a code
    UNKNOWN_TRUST_DOMAIN = "unknown_trust_domain"
    UNKNOWN_TOKEN = "unknown_token"  # noqa: S105 - a code
    UNKNOWN_ISSUER = "unknown_issuer"
    # Identity material against itself
    OWN_TRUST_DOMAIN = "own_trust_domain_not_trusted"
    OWN_CHAIN = "own_chain_refused"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing to change. ``line`` counts from 1, 0 means the file as a whole; ``key`` is a path like ``a[0].b``."""

    code: StrEnum
    file: Path
    line: int
    key: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        """Returns ``FILE:LINE: key: message``, and the hint on an indented line of its own."""
        place = [printable(str(self.file)) + (f":{self.line}" if self.line else "")]
        text = ": ".join([*place, *([self.key] if self.key else []), self.message])
        return f"{text}\n    {self.hint}" if self.hint else text


class InvalidConfiguration(ConfigurationError):  # noqa: N818 - it carries faults, each an error of its own
    """A configuration that must not be used; the old one, if any, stays in force.

    ``faults`` are in the order of the file and never empty; ``left_out`` counts those beyond ``MOST``. ``snapshot`` is
    what was read, so that the same files are not tried again before one of them changes.
    """

    def __init__(self, faults: tuple[Fault, ...], snapshot: Snapshot, *, left_out: int = 0) -> None:
        count = len(faults) + left_out
        first = f"{printable(str(faults[0].file))}: {count} fault{'s' * (count != 1)}, the first: {faults[0].message}"
        super().__init__(ConfigCode.INVALID, first, hint=f"sidecar check {printable(str(faults[0].file))}")
        self.faults = faults
        self.snapshot = snapshot
        self.left_out = left_out


class Refused(ConfigurationError):  # noqa: N818 - a verdict on a value, never seen by a user as an error
    """One value is refused; whoever knows its place turns this into a Fault."""


class Faults:
    """Collects the faults of one file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: list[Fault] = []
        self.left_out = 0

    @property
    def full(self) -> bool:
        """Whether further faults are only counted."""
        return len(self.found) >= MOST

    def add(self, code: StrEnum, message: str, *, line: int = 0, key: str = "", hint: str = "") -> None:
        """Adds one fault of this file."""
        if self.full:
            self.left_out += 1
        else:
            self.found.append(Fault(code, self.file, line, key, message[:_MESSAGE], hint[:_MESSAGE]))

    def refuse(self, error: SidecarError, *, line: int = 0, key: str = "") -> None:
        """Adds what a parser of another part said about a value."""
        self.add(error.code, str(error), line=line, key=key, hint=error.hint)

    def sorted(self) -> tuple[Fault, ...]:
        """Returns all faults in the order of the file."""
        return tuple(sorted(self.found, key=lambda fault: fault.line))


def secret(text: str) -> bool:
    """Says whether a text holds, as far as one can see, a secret that no configuration may hold."""
    return _SECRET.search(text) is not None


def printable(text: str) -> str:
    """Returns text that cannot steer a terminal or break a line: what is not printable is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def quote(text: str, most: int = _QUOTED) -> str:
    """Returns a value as messages show it: quoted, escaped, cut; a secret is never shown."""
    if secret(text):
        return "a secret (not shown)"
    cut = text if len(text) <= most else text[:most] + "…"
    return f'"{printable(cut)}"'


def below(path: str, key: str) -> str:
    """Returns the key path of ``key`` in the mapping at ``path``."""
    shown = key if _PLAIN_KEY.fullmatch(key) else quote(key)
    return f"{path}.{shown}" if path else shown
