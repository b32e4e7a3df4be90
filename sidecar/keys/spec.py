"""What ``identity.key`` says: where the private key is, never the key itself and never a PIN.

* a path: a PEM file;
* ``tpm:handle=0x81000002`` or ``tpm:file=PATH`` (a TSS2 PEM), then any of ``;tcti=`` (percent-encoded, as tpm2-tss
  writes it), ``;pin-source=file:PATH`` and ``;unsafe-copyable=true``;
* ``pkcs11:…?module-path=…&pin-source=file:…`` (RFC 7512), and ``&unsafe-copyable=true``: `sidecar.keys.uri` reads it;
* ``signer:unix:PATH``: a signer service.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import quote

from sidecar.keys import uri
from sidecar.keys.errors import KeyCode, PrivateKeyError
from sidecar.keys.uri import Pkcs11Key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: The shape of a URI scheme (RFC 3986 3.1). One letter is taken for a path, as a courtesy to short folder names.
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
#: Persistent objects of the owner and the platform (TPM 2.0 part 2, 7.4; the owner's end below 0x81800000).
_HANDLES: Final = range(0x81000000, 0x82000000)
_HANDLE: Final = re.compile(r"0[xX][0-9A-Fa-f]{8}")
#: What a TCTI has unescaped in ``tcti=``.
_SAFE: Final = "/:,.=-_~"
_PATH_SAFE: Final = "/:.-_~"

_TPM_FORM: Final = "write tpm:handle=0x81000002, or tpm:file=PATH, then ;tcti=… and ;pin-source=file:PATH where needed"


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A private key in a PEM file; ``path`` is absolute."""

    path: Path

    def __str__(self) -> str:
        """Returns the path."""
        return str(self.path)


@dataclass(frozen=True, slots=True)
class TpmKey:
    """A key in a TPM 2.0: persistent at ``handle``, or wrapped by the TPM in ``file`` (TSS2 PEM); exactly one is set.

    ``tcti`` is how the TPM is reached, in tpm2-tss's words (``device:/dev/tpmrm0``, ``swtpm:path=…``); None for the
    default. ``pin_source`` is the absolute path of the file that holds the PIN. ``copyable`` lets a key be used that
    could leave the TPM.
    """

    handle: int | None = None
    file: Path | None = None
    tcti: str | None = None
    pin_source: Path | None = None
    copyable: bool = False

    def __str__(self) -> str:
        """Returns the value as it can be written in a configuration."""
        parts = [f"tpm:handle={self.handle:#010x}" if self.handle is not None else f"tpm:file={_escaped(self.file)}"]
        if self.tcti is not None:
            parts.append(f"tcti={quote(self.tcti, safe=_SAFE)}")
        if self.pin_source is not None:
            parts.append(f"pin-source={uri.file_uri(self.pin_source, _PATH_SAFE)}")
        if self.copyable:
            parts.append("unsafe-copyable=true")
        return ";".join(parts)


@dataclass(frozen=True, slots=True)
class RemoteKey:
    """A key behind a signer service, at the UNIX socket ``path`` (absolute)."""

    path: Path

    def __str__(self) -> str:
        """Returns ``signer:unix:PATH``."""
        return f"signer:unix:{self.path}"


#: Every kind of place a key can be in.
KeySpec: TypeAlias = KeyFile | TpmKey | Pkcs11Key | RemoteKey


def scheme(text: str) -> str | None:
    """Returns the lower-case scheme that ``text`` begins with, None for a plain path."""
    match = _SCHEME.match(text)
    return match[1].lower() if match else None


def parse(text: str, base: Path) -> KeySpec:
    """Parses a key's place; relative paths start at ``base``. Raises PrivateKeyError. Opens nothing."""
    kind = scheme(text)
    if kind is None:
        return KeyFile(base / text)
    read = _KINDS.get(kind)
    if read is None:
        raise PrivateKeyError(
            KeyCode.UNKNOWN_KIND,
            f"{kind}: is not a kind of key",
            hint="name the path of a PEM file, or begin with tpm:, pkcs11: or signer:unix:; write ./ before a path that "
            "begins like a scheme",
        )
    return read(text, base)


def named_files(spec: KeySpec) -> tuple[Path, ...]:
    """The files that a key's place names and that are read with the configuration: the wrapped key, the PIN."""
    if isinstance(spec, KeyFile):
        return (spec.path,)
    if isinstance(spec, RemoteKey):
        return ()
    file = spec.file if isinstance(spec, TpmKey) else None
    return tuple(path for path in (file, spec.pin_source) if path is not None)


def _tpm(text: str, base: Path) -> TpmKey:
    values: dict[str, str] = {}
    for part in text.partition(":")[2].split(";"):
        name, equals, value = part.partition("=")
        if not equals or name not in _TPM_PARTS:
            # A value is left out, and so is what has no name: it may be a PIN in the wrong place.
            raise _bad(f"tpm: has no part {uri.shown(name)}" if equals else "tpm: has a part without =", _TPM_FORM)
        if name in values:
            raise _bad(f"tpm: has {name} twice", _TPM_FORM)
        if not value:
            raise _bad(f"tpm: has an empty {name}", _TPM_FORM)
        values[name] = value
    if ("handle" in values) == ("file" in values):
        raise _bad("tpm: names the key by exactly one of handle and file", _TPM_FORM)
    return TpmKey(
        handle=_handle(values["handle"]) if "handle" in values else None,
        file=base / uri.decoded(values["file"], "tpm: file") if "file" in values else None,
        tcti=uri.decoded(values["tcti"], "tpm: tcti") if "tcti" in values else None,
        pin_source=uri.pin_source(values["pin-source"], base) if "pin-source" in values else None,
        copyable=uri.copyable(values.get("unsafe-copyable")),
    )


_TPM_PARTS: Final = frozenset({"handle", "file", "tcti", "pin-source", "unsafe-copyable"})


def _handle(value: str) -> int:
    handle = int(value, 16) if _HANDLE.fullmatch(value) else 0
    if handle not in _HANDLES:
        raise _bad(
            f"tpm: {uri.shown(value)} is not the handle of a persistent object",
            "write 0x81 and six more hexadecimal digits, for example handle=0x81000002",
        )
    return handle


def _signer(text: str, base: Path) -> RemoteKey:
    kind, _, path = text.partition(":")[2].partition(":")
    if kind != "unix" or not path:
        raise _bad("signer: is followed by the path of a UNIX socket", "write signer:unix:PATH")
    found = base / path
    if len(str(found).encode(errors="surrogatepass")) > uri.SOCKET_PATH_BYTES:
        raise _bad(
            f"signer: the path of a UNIX socket has at most {uri.SOCKET_PATH_BYTES} bytes", "name a shorter path"
        )
    return RemoteKey(found)


_KINDS: Final[dict[str, Callable[[str, Path], KeySpec]]] = {"tpm": _tpm, "pkcs11": uri.parse, "signer": _signer}


def _escaped(path: Path | None) -> str:
    return quote(str(path), safe=_PATH_SAFE)


def _bad(message: str, hint: str) -> PrivateKeyError:
    return PrivateKeyError(KeyCode.BAD_PLACE, message, hint=hint)
