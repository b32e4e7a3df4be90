"""What ``tokens`` and ``issuers`` name outside the configuration: authorities and client secrets, read once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sidecar.config.faults import ConfigCode, Refused
from sidecar.config.key_material import Named, read_file, reporter
from sidecar.identity.pem import NOT_PEM_HINT, PemError, blocks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sidecar.config.faults import Faults
    from sidecar.config.files import Look
    from sidecar.config.values import TokenRefs
    from sidecar.tokens.settings import SecretRef

_MOST: Final = 4096
_SECRET: Final = re.compile(rf"[!-~]{{1,{_MOST}}}")


@dataclass(frozen=True, slots=True)
class TokenFiles:
    """``cas``: the certificates in each file of authorities, as PEM in ASCII. ``secrets`` never appear in ``repr``."""

    cas: Mapping[Path, bytes] = field(default_factory=dict)
    secrets: Mapping[SecretRef, str] = field(default_factory=dict, repr=False)


class TokenFileReader:
    """Reads authorities and secrets; every fault goes to the list, at the key that names the place."""

    def __init__(self, look: Look, faults: Faults, lines: Mapping[str, int], environ: Mapping[str, str]) -> None:
        self._look = look
        self._faults = faults
        self._lines = lines
        self._environ = environ
        self._check = reporter(faults, lines)

    def read(self, refs: TokenRefs) -> TokenFiles:
        """Returns what could be read; it may be used only if no fault was added."""
        cas: dict[Path, bytes] = {}
        for key, path in refs.cas:
            pem = read_file(self._look, self._check, Named(key, path), read_ca)
            if pem is not None:
                cas[path] = pem
        secrets: dict[SecretRef, str] = {}
        for key, ref in refs.secrets:
            secret = self._secret(key, ref)
            if secret is not None:
                secrets[ref] = secret
        return TokenFiles(MappingProxyType(cas), MappingProxyType(secrets))

    def _secret(self, key: str, ref: SecretRef) -> str | None:
        if ref.file is not None:
            return read_file(self._look, self._check, Named(key, ref.file), read_secret, holds="a client secret")
        try:
            return _variable(self._environ.get(ref.env or ""))
        except Refused as error:
            self._faults.refuse(error, line=self._lines.get(key, 0), key=key)
            return None


def read_ca(pem: bytes) -> bytes:
    """Returns the certificates in the bytes of a file, without what stands between them. Raises Refused."""
    try:
        found = blocks(pem)
        certificates = [x509.load_der_x509_certificate(each.der()) for each in found if each.is_certificate]
    except PemError as error:
        raise Refused(ConfigCode.BAD_CA, f"is damaged: {error}", hint="export the certificates again") from error
    except ValueError:
        raise Refused(
            ConfigCode.BAD_CA, "holds a certificate that cannot be read", hint="export the certificates again"
        ) from None
    if any(each.is_private_key for each in found):
        raise Refused(
            ConfigCode.BAD_CA,
            "holds a private key, where certificates alone are expected",
            hint="name the certificates of the authorities; they are public",
        )
    if not certificates:
        raise Refused(ConfigCode.BAD_CA, "holds no PEM certificate", hint=NOT_PEM_HINT)
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def read_secret(data: bytes) -> str:
    """Returns the client secret in a file's bytes: all of it, less one line end. Raises Refused, which never quotes it."""
    return _checked(
        data.removesuffix(b"\n").removesuffix(b"\r").decode("ascii", "replace"), "does not hold a client secret"
    )


def _variable(value: str | None) -> str:
    if value is None:
        raise Refused(
            ConfigCode.ENV_UNSET,
            "the environment of sidecar has no such variable",
            hint="set it where sidecar is started, or write {file: PATH}",
        )
    return _checked(value, "the variable does not hold a client secret")


def _checked(secret: str, message: str) -> str:
    if _SECRET.fullmatch(secret) is None:
        raise Refused(
            ConfigCode.BAD_SECRET,
            message,
            hint=f"a client secret is 1 to {_MOST} visible ASCII characters, in one line",
        )
    return secret
