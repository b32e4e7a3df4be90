from __future__ import annotations

import json

from sidecar.telemetry.record import CONTEXT_FIELDS, Context


def members(context: Context) -> dict[str, str]:
    return dict(json.loads("{" + context.json.removeprefix(",") + "}"))


def test_a_context_holds_the_fields_it_was_given() -> None:
    given = {attribute: f"{attribute}\n" for attribute in CONTEXT_FIELDS}
    assert members(Context.of(**given)) == {name: f"{attribute}\n" for attribute, name in CONTEXT_FIELDS.items()}


def test_what_is_none_is_left_out() -> None:
    assert Context.of().json == ""
    assert members(Context.of(listener="tools", src_addr=None)) == {"listener": "tools"}
