from __future__ import annotations

from dataclasses import fields, replace

import pytest

from sidecar.config.effective import effective
from sidecar.config.faults import ConfigCode
from sidecar.config.limits import LIMITS
from sidecar.config.schema import Required
from sidecar.limits import COUNTED, UNLIMITED, Limits
from tests.support.configuration import Workspace, edit


def limits(text: str) -> str:
    return edit("  connections: 4096\n", text)


def test_every_limit_has_a_key_with_the_same_default() -> None:
    assert {key.name: key.default for key in LIMITS.keys} == {
        each.name: getattr(Limits(), each.name) for each in fields(Limits)
    }
    assert not any(isinstance(key.default, Required) for key in LIMITS.keys)


def test_a_file_without_limits_has_the_defaults(workspace: Workspace) -> None:
    assert workspace.load(edit("limits:\n  connections: 4096\n", "")).config.limits == Limits()


def test_limits_that_are_set(workspace: Workspace) -> None:
    found = workspace.load(limits("  head_bytes: 32KiB\n  fields: 64\n  min_rate: 1KiB\n  idle_timeout: 90s\n"))
    assert found.config.limits == Limits(head_bytes=32768, fields=64, min_rate=1024, idle_timeout=90.0)


#: What is off unless it is asked for.
OPTIONAL = ["body_bytes", "requests_per_connection", "request_rate"]


@pytest.mark.parametrize("key", OPTIONAL)
def test_the_limits_that_can_be_switched_off(workspace: Workspace, key: str) -> None:
    found = workspace.load(limits(f"  {key}: none\n")).config
    assert getattr(found.limits, key) == UNLIMITED
    assert effective(found)["limits"][key] == "none"


def test_limits_that_are_off_can_be_set(workspace: Workspace) -> None:
    text = "  body_bytes: 1GiB\n  requests_per_connection: 1000\n  request_rate: 5\n  request_burst: 7\n"
    config = workspace.load(limits(text)).config
    assert config.limits == Limits(body_bytes=2**30, requests_per_connection=1000, request_rate=5, request_burst=7)
    shown = effective(config)["limits"]
    assert (shown["body_bytes"], shown["requests_per_connection"], shown["request_rate"]) == ("1GiB", 1000, 5)


@pytest.mark.parametrize("key", [each.name for each in fields(Limits)])
def test_no_other_limit_can_be_switched_off(workspace: Workspace, key: str) -> None:
    """Zero, and what others write for "no limit", is out of range or no value of the kind."""
    for value in ("0", "0s", "0B", "-1", "unlimited", ".inf", *([] if key in OPTIONAL else ["none"])):
        fault = workspace.fault(limits(f"  {key}: {value}\n"))
        assert fault.key == f"limits.{key}"
        assert fault.code in {
            ConfigCode.OUT_OF_RANGE,
            ConfigCode.BAD_NUMBER,
            ConfigCode.BAD_DURATION,
            ConfigCode.BAD_SIZE,
        }


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("  target_bytes: 64KiB\n", "limits.target_bytes", "target_bytes (64KiB) is not below head_bytes (64KiB)"),
        ("  head_bytes: 16KiB\n", "limits.head_bytes", "target_bytes (16KiB) is not below head_bytes (16KiB)"),
        (
            "  head_bytes: 1KiB\n  target_bytes: 2KiB\n",
            "limits.target_bytes",
            "target_bytes (2KiB) is not below head_bytes (1KiB)",
        ),
    ],
)
def test_a_head_holds_its_target(workspace: Workspace, text: str, key: str, message: str) -> None:
    fault = workspace.fault(limits(text))
    assert (fault.code, fault.key, fault.message) == (ConfigCode.OUT_OF_RANGE, key, message)


def test_what_is_divided_by_the_number_of_workers_says_so() -> None:
    assert {key.name for key in LIMITS.keys if "Divided by `workers`." in key.doc} == set(COUNTED)
    part = Limits(connections=10, handshakes=1).share(4)
    assert part == replace(Limits(handshakes=1).share(4), connections=3)
    assert part.handshakes == 1, "never nothing"
    assert Limits().share(1) == Limits()
    assert Limits(request_rate=2).share(4).request_rate == 0.5, "a rate may be less than one a second"
    assert Limits().share(4).request_rate == Limits().request_rate, "no part of none"
