"""A plain HTTP request of the planner to its own sidecar, field by field as written here."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidecar.demo.outcome import UnexpectedError
from sidecar.demo.ports import HOST
from sidecar.demo.processes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and JSON body of a response."""

    status: int
    body: Any


def get(port: int, path: str, host: str, fields: Iterable[tuple[str, str]] = ()) -> Answer:
    """Sends GET and returns the answer; raises UnexpectedError when there is none."""
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
    try:
        connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
        for name, value in (("Host", host), *fields):
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return Answer(response.status, json.loads(response.read()))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UnexpectedError(f"no answer: {type(error).__name__}", str(error)) from error
    finally:
        connection.close()
