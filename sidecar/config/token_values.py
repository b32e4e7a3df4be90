"""The plain kinds of values that sections about tokens have: scopes, audiences, algorithms, names of fields."""

from __future__ import annotations

import re
from typing import Final

from sidecar.config import forms
from sidecar.config.faults import ConfigCode, Refused, quote
from sidecar.config.schema import Absent, text
from sidecar.http.fields import forward_trailers

#: Longer than any such name that is in use, and short enough for a message head with several.
_MOST: Final = 1024
_VISIBLE: Final = re.compile(rf"[!-~]{{1,{_MOST}}}")
#: RFC 6749 3.3.
_SCOPE: Final = re.compile(rf"[!#-\[\]-~]{{1,{_MOST}}}")
#: RFC 9110 5.6.2, and our bound.
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}"
_FIELD: Final = re.compile(_WORD)
_HEADER: Final = re.compile(rf"({_WORD})(?:: ?({_WORD}))?")
#: A media type or its subtype alone (RFC 7515 4.1.9), as restricted names are written (RFC 6838 4.2).
_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}(?:/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126})?")

#: Asymmetric signatures (RFC 7518 3.1, RFC 8037 3.1).
ALGORITHMS: Final = ("ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA")

NO_AUDIENCE: Final = Absent(
    ConfigCode.NO_AUDIENCE,
    "no audience is named",
    "name whom tokens are for: one made for another service must not open this one",
)


def _visible(value: str) -> str:
    if _VISIBLE.fullmatch(value) is None:
        raise Refused(
            ConfigCode.BAD_TEXT,
            f"this is not 1 to {_MOST} visible ASCII characters",
            hint="write the identifier as it was registered, without blanks",
        )
    return value


def _audience(value: str) -> str:
    if not value or value != value.strip() or len(value) > _MOST:
        raise Refused(
            ConfigCode.BAD_TEXT,
            f"this is not 1 to {_MOST} printable characters without blanks around them",
            hint="write the audience as it stands in the token: it is compared byte for byte",
        )
    return value


def _claim_name(value: str) -> str:
    if not value or len(value) > _MOST:
        raise Refused(
            ConfigCode.BAD_CLAIM, f"the name of a claim has 1 to {_MOST} characters", hint="write it as tokens have it"
        )
    return value


def _scope(value: str) -> str:
    if _SCOPE.fullmatch(value) is None:
        hint = 'a scope is visible ASCII without " and \\ (RFC 6749 3.3)'
        if " " in value:
            hint = "write several scopes as a list: [tools.read, tools.write]"
        raise Refused(ConfigCode.BAD_SCOPE, f"{quote(value)} is not a scope", hint=hint)
    return value


def _algorithm(value: str) -> str:
    known = ", ".join(ALGORITHMS)
    if value in ALGORITHMS:
        return value
    if value.upper().startswith("HS"):
        raise Refused(
            ConfigCode.BAD_ALGORITHM,
            f"{quote(value)} needs a shared secret: whoever can check such a token can make one",
            hint=f"let the issuer sign with a key pair, and write one of {known}",
        )
    if value.lower() == "none":
        raise Refused(
            ConfigCode.BAD_ALGORITHM,
            "none means that nobody signed: anybody can make such a token",
            hint=f"write one of {known}",
        )
    raise Refused(
        ConfigCode.BAD_ALGORITHM, f"{quote(value)} is not an algorithm that is served", hint=f"write one of {known}"
    )


def _typ(value: str) -> str | None:
    if value == "none":
        return None
    if _TYPE.fullmatch(value) is None:
        raise Refused(
            ConfigCode.BAD_TEXT,
            f"{quote(value)} is not a type of tokens",
            hint="write at+jwt (RFC 9068), what the header of the issuer's tokens has in typ, or none",
        )
    return value


def settable(name: str) -> bool:
    """Says whether a field may be set from a token.

    As with trailers (RFC 9110 6.5.1): it neither frames, routes nor authenticates a message, says nothing about its
    content, and states no identity or path for which the proxy vouches.
    """
    lower = name.lower().encode("ascii")
    return bool(forward_trailers([(lower, lower, b"")]))


def field_name(value: str) -> bytes:
    """Parses the name of a field that is set from a claim; raises Refused."""
    if _FIELD.fullmatch(value) is None:
        raise Refused(
            ConfigCode.BAD_FIELD_NAME,
            f"{quote(value)} is not the name of a field (RFC 9110 5.1)",
            hint="write a name such as x-token-subject",
        )
    if not settable(value):
        raise Refused(
            ConfigCode.BAD_FIELD_NAME,
            f"{quote(value)} is not to be set from a token: it frames, routes or authenticates a message",
            hint="choose a name of your own, such as x-token-subject",
        )
    return value.encode("ascii")


def _token_header(value: str) -> tuple[bytes, bytes]:
    match = _HEADER.fullmatch(value)
    if match is None:
        raise Refused(
            ConfigCode.BAD_FIELD_NAME,
            f"{quote(value)} is neither the name of a field nor one with a scheme",
            hint='write "Authorization: Bearer", or a name alone for the bare value: X-Api-Key',
        )
    name, scheme = match[1], match[2] or ""
    if name.lower() != "authorization" and not settable(name):
        raise Refused(
            ConfigCode.BAD_FIELD_NAME,
            f"{quote(name)} cannot carry a token: it frames or routes a message, or says what it holds",
            hint="write Authorization, or the name that the service expects, such as X-Api-Key",
        )
    return name.encode("ascii"), scheme.encode("ascii")


VISIBLE: Final = text(_visible, "visible ASCII", forms.matching(_VISIBLE))
AUDIENCE: Final = text(_audience, "text")
CLAIM_NAME: Final = text(_claim_name, "name of a claim")
SCOPE: Final = text(_scope, "scope", forms.matching(_SCOPE))
ALGORITHM: Final = text(_algorithm, "algorithm", forms.one_of(ALGORITHMS))
TYP: Final = text(_typ, "media type or none", forms.matching(_TYPE))
TOKEN_HEADER: Final = text(_token_header, "field name, or name: scheme", forms.matching(_HEADER))
