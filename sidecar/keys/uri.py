"""PKCS#11 URIs (RFC 7512), as far as they name one private key, and the parts that ``tpm:`` shares with them.

Path attributes: ``token``, ``manufacturer``, ``model``, ``serial``, ``slot-id``, ``object``, ``id`` and ``type``
(``private`` or nothing). Query attributes: ``module-path`` (required), ``pin-source`` (a ``file:`` URI), and our own
``unsafe-copyable``. ``pin-value`` is refused: a PIN in a configuration file is no secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote_to_bytes

from sidecar.keys.errors import KeyCode, PrivateKeyError

if TYPE_CHECKING:
    from pathlib import Path

#: sun_path of unix(7), less the byte that ends it.
SOCKET_PATH_BYTES: Final = 107

_PATH: Final = frozenset({"token", "manufacturer", "model", "serial", "slot-id", "object", "id", "type"})
_QUERY: Final = frozenset({"module-path", "pin-source", "unsafe-copyable"})
_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
#: pk11-path-res-avail and pk11-query-res-avail (RFC 7512 2.3), as far as both allow them.
_PATH_SAFE: Final = ":[]@!$'()*+,=-._~"
_QUERY_SAFE: Final = "/:[]@!$'()*+,-._~"

_FORM: Final = "write pkcs11:token=NAME;object=LABEL?module-path=/path/to/module.so&pin-source=file:PATH (RFC 7512)"


@dataclass(frozen=True, slots=True)
class Pkcs11Key:
    """A key in a PKCS#11 token. Paths are absolute; what is None is not looked at when the key is searched for."""

    module: Path
    token: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    serial: str | None = None
    slot: int | None = None
    object: str | None = None
    id: bytes | None = None
    pin_source: Path | None = None
    copyable: bool = False

    def __str__(self) -> str:
        """Returns the URI as it can be written in a configuration; it holds no PIN."""
        named = {
            "token": self.token,
            "manufacturer": self.manufacturer,
            "model": self.model,
            "serial": self.serial,
            "slot-id": None if self.slot is None else str(self.slot),
            "object": self.object,
        }
        path = [f"{name}={quote(value, safe=_PATH_SAFE)}" for name, value in named.items() if value is not None]
        if self.id is not None:
            path.append("id=" + "".join(f"%{byte:02X}" for byte in self.id))
        query = [f"module-path={quote(str(self.module), safe=_QUERY_SAFE)}"]
        if self.pin_source is not None:
            query.append(f"pin-source={file_uri(self.pin_source, _QUERY_SAFE)}")
        if self.copyable:
            query.append("unsafe-copyable=true")
        return f"pkcs11:{';'.join([*path, 'type=private'])}?{'&'.join(query)}"


def parse(text: str, base: Path) -> Pkcs11Key:
    """Parses a URI; relative paths in it start at ``base``. Raises PrivateKeyError, which never quotes a value."""
    path, _, query = text.partition(":")[2].partition("?")
    named = _attributes(path, ";", _PATH)
    asked = _attributes(query, "&", _QUERY)
    if "module-path" not in asked:
        raise _bad("pkcs11: names no module-path", "add ?module-path= and the path of the vendor's PKCS#11 library")
    if named.get("type", "private") != "private":
        raise _bad("pkcs11: type is something else than private", "leave type out, or write type=private")
    if not {"object", "id"} & named.keys():
        raise _bad("pkcs11: names no key", "add object= (its label) or id= (its identifier)")

    def text_of(name: str) -> str | None:
        return decoded(named[name], f"pkcs11: {name}") if name in named else None

    return Pkcs11Key(
        module=base / decoded(asked["module-path"], "pkcs11: module-path"),
        token=text_of("token"),
        manufacturer=text_of("manufacturer"),
        model=text_of("model"),
        serial=text_of("serial"),
        slot=_slot(named.get("slot-id")),
        object=text_of("object"),
        id=_bytes(named["id"], "pkcs11: id") if "id" in named else None,
        pin_source=pin_source(asked["pin-source"], base) if "pin-source" in asked else None,
        copyable=copyable(asked.get("unsafe-copyable")),
    )


def _attributes(text: str, separator: str, known: frozenset[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, text.split(separator)):
        name, equals, value = part.partition("=")
        if name == "pin-value":
            raise PrivateKeyError(
                KeyCode.SECRET,
                "pkcs11: a PIN stands in the configuration (pin-value)",
                hint="put it into a file of mode 0600 and write pin-source=file:PATH; change the PIN, it was in clear",
            )
        if not equals or name not in known:
            # What has no name is not shown either: it may be the rest of a PIN.
            raise _bad(
                f"pkcs11: {shown(name) if equals else 'what has no ='} is not an attribute that names a private key",
                _FORM,
            )
        if name in found:
            # RFC 7512 2.3: no attribute more than once.
            raise _bad(f"pkcs11: has {name} twice", _FORM)
        if not value:
            raise _bad(f"pkcs11: has an empty {name}", _FORM)
        found[name] = value
    return found


def _slot(value: str | None) -> int | None:
    if value is None:
        return None
    if not re.fullmatch(r"[0-9]{1,19}", value):
        raise _bad(
            "pkcs11: slot-id is no number", "write slot-id=0; slots may be renumbered, token= names one for good"
        )
    return int(value)


def pin_source(value: str, base: Path) -> Path:
    """Reads ``file:PATH``, also ``file:///PATH`` (RFC 8089). Raises PrivateKeyError for anything else, a command say."""
    kind, _, rest = value.partition(":")
    path = decoded(rest.removeprefix("//"), "pin-source")
    # Between // and the next slash there is a host (RFC 8089 2).
    if kind != "file" or not path or (rest.startswith("//") and not path.startswith("/")):
        raise _bad("pin-source is not a file", "put the PIN into a file of mode 0600 and write pin-source=file:PATH")
    return base / path


def file_uri(path: Path, safe: str) -> str:
    """Writes an absolute path as `pin_source` reads it."""
    text = quote(str(path), safe=safe)
    return f"file://{text}" if text.startswith("//") else f"file:{text}"


def copyable(value: str | None) -> bool:
    """Reads ``unsafe-copyable``, None where it is absent. Raises PrivateKeyError."""
    if value not in {None, "true", "false"}:
        raise _bad(
            "unsafe-copyable is neither true nor false", "leave it out: a key that can be copied is then refused"
        )
    return value == "true"


def decoded(value: str, what: str) -> str:
    """Percent-decodes UTF-8 text. Raises PrivateKeyError; the message has ``what`` and not the value."""
    try:
        text = _bytes(value, what).decode()
    except UnicodeDecodeError:
        raise _bad(f"{what} is not UTF-8", _ESCAPES) from None
    if "\0" in text:
        raise _bad(f"{what} holds a zero byte", "remove it")
    return text


_ESCAPES: Final = "write a percent sign itself as %25, and other bytes as % and two hexadecimal digits"


def _bytes(value: str, what: str) -> bytes:
    if _ESCAPE.search(value):
        raise _bad(f"{what} has a percent sign without two hexadecimal digits", _ESCAPES)
    try:
        return unquote_to_bytes(value)
    except UnicodeEncodeError:  # half of a surrogate pair, which YAML lets through
        raise _bad(f"{what} is no text", _ESCAPES) from None


def shown(text: str) -> str:
    """Quotes a word of the user's for a message, short and printable."""
    return ascii(text if len(text) <= 30 else text[:30] + "...")


def _bad(message: str, hint: str) -> PrivateKeyError:
    return PrivateKeyError(KeyCode.BAD_PLACE, message, hint=hint)
