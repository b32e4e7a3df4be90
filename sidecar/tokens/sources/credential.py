"""What a helper prints: an ExecCredential as kubectl's plugins do (client.authentication.k8s.io), or the bare token."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any, Final, NamedTuple

from sidecar.identity.strict_json import Defect, read_object
from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.token import checked

_GROUP: Final = "client.authentication.k8s.io"
_VERSIONS: Final = (f"{_GROUP}/v1", f"{_GROUP}/v1beta1")
#: RFC 3339 5.6. `datetime` alone takes many other spellings.
_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})", re.IGNORECASE
)

#: What a plugin finds in KUBERNETES_EXEC_INFO: the version that it should print, and that nobody can answer it.
EXEC_INFO: Final = json.dumps(
    {"apiVersion": f"{_GROUP}/v1", "kind": "ExecCredential", "spec": {"interactive": False}}, separators=(",", ":")
)


class Printed(NamedTuple):
    """A checked token, and when it ends by what stands beside it, in seconds since the epoch."""

    value: str
    expires: float | None


def read(output: bytes) -> Printed:
    """Reads the output of a command. Raises SourceError: COMMAND for what is no credential, BAD_TOKEN for its token."""
    # What is not UTF-8 becomes something that no token has, and not an error that holds it all.
    text = output.decode(errors="replace")
    if not text.lstrip().startswith("{"):
        return Printed(checked(text.removesuffix("\n")), None)
    document = read_object(output)
    if isinstance(document, Defect):
        raise _no_credential("it is no JSON object, or has a name twice")
    return _exec_credential(document)


def _exec_credential(document: Any) -> Printed:
    if document.get("kind") != "ExecCredential" or document.get("apiVersion") not in _VERSIONS:
        raise _no_credential(f"it is no ExecCredential of {_GROUP}/v1 or v1beta1")
    status = document.get("status")
    token = status.get("token") if isinstance(status, dict) else None
    if not isinstance(token, str):
        raise _no_credential("it has no `status.token`; client certificates are not taken from it")
    return Printed(checked(token), _time(status.get("expirationTimestamp")))


def _time(text: object) -> float | None:
    if text is None:
        return None
    try:
        if isinstance(text, str) and _TIME.fullmatch(text):
            return datetime.fromisoformat(text.upper()).timestamp()
    except (ValueError, OverflowError):
        pass  # such as month 13
    raise _no_credential("its `expirationTimestamp` is no time of RFC 3339")


def _no_credential(why: str) -> SourceError:
    return SourceError(
        SourceCode.COMMAND,
        f"what the command printed is no credential: {why}",
        hint="it has to print an ExecCredential, or the token alone on one line",
    )
