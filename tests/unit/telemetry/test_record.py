from __future__ import annotations

import json
from typing import Any

from sidecar.telemetry.record import CONTEXT_FIELDS, Context


def members(context: Context) -> dict[str, Any]:
    return dict(json.loads("{" + context.json.removeprefix(",") + "}"))


def test_a_context_holds_the_fields_it_was_given() -> None:
    given: dict[str, Any] = {attribute: f"{attribute}\n" for attribute in CONTEXT_FIELDS}
    given |= {"src_uid": 1000, "src_pid": 0}
    assert members(Context.of(**given)) == {name: given[attribute] for attribute, name in CONTEXT_FIELDS.items()}


def test_what_is_none_is_left_out() -> None:
    assert Context.of().json == ""
    assert members(Context.of(listener="tools", src_addr=None)) == {"listener": "tools"}
