from __future__ import annotations

import json

import pytest

from bench.errors import CouldNotRunError
from bench.load.wrk import MARK, Sent


def printed(requests: int = 1000, **errors: int) -> str:
    none = dict.fromkeys(("connect", "read", "write", "status", "timeout"), 0)
    report = {"requests": requests, "bytes": 5_000_000_000, "p50_us": 1180, "p99_us": 4000, "errors": none | errors}
    return f"Running 1s test @ http://127.0.0.1:1/\n  1 threads\n\n{MARK}{json.dumps(report)}\n"


def test_the_report_is_read() -> None:
    assert Sent.parse(printed()) == Sent(1000, 5_000_000_000, 1180, 4000)


@pytest.mark.parametrize("kind", ["connect", "read", "write", "status", "timeout"])
def test_any_error_fails_the_round_and_is_named(kind: str) -> None:
    with pytest.raises(CouldNotRunError, match=f"errors under load: 3 {kind} \\(of 1000 requests\\)"):
        Sent.parse(printed(**{kind: 3}))


def test_no_answer_at_all_is_a_failure() -> None:
    with pytest.raises(CouldNotRunError, match="no request was answered"):
        Sent.parse(printed(requests=0))


@pytest.mark.parametrize("output", ["", "unable to connect to 127.0.0.1:1 Connection refused\n"])
def test_output_without_a_report_is_told(output: str) -> None:
    with pytest.raises(CouldNotRunError, match=r"Connection refused|no output"):
        Sent.parse(output)
