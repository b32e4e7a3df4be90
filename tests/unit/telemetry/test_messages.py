from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.telemetry.messages import BURST, LINE_BYTES, TEXTS, WINDOW_SECONDS, Messages
from tests.support.log import fill

if TYPE_CHECKING:
    from collections.abc import Iterator

NOON = 1_800_014_400.25


class Tool:
    """Messages on a pipe, at a time that the test tells."""

    def __init__(self) -> None:
        self.reader, self.end = os.pipe()
        os.set_blocking(self.reader, False)
        self.now = NOON
        self.messages = Messages(lambda: self.now, fd=self.end)

    def lines(self) -> list[str]:
        try:
            return os.read(self.reader, 1 << 20).decode("ascii").splitlines()
        except BlockingIOError:
            return []

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.end)


@pytest.fixture
def tool() -> Iterator[Tool]:
    made = Tool()
    yield made
    made.close()


def test_a_message_is_one_line_for_people(tool: Tool) -> None:
    tool.messages.warning("the upstream refused", listener="tools", code="upstream_refused", after=1.5)
    tool.messages.info("serving")
    tool.messages.error('no file "a b"')
    assert tool.lines() == [
        "2027-01-15T12:00:00.250Z warning the upstream refused listener=tools code=upstream_refused after=1.5",
        "2027-01-15T12:00:00.250Z info serving",
        '2027-01-15T12:00:00.250Z error no file "a b"',
    ]


@pytest.mark.threat(44)
def test_threat_44_no_value_can_forge_a_line_or_another_value(tool: Tool) -> None:
    tool.messages.info("a", name='x\n2027 error "owned" code=1', raw=b"\x1b[2J\xff", empty="", other="é\u2028\udcff")
    (line,) = tool.lines()
    assert line == (
        r'2027-01-15T12:00:00.250Z info a name="x\n2027 error \"owned\" code=1" raw="\u001b[2J\\xff" empty=""'
        r' other="\u00e9\u2028\\udcff"'
    )


@pytest.mark.threat(44)
@given(st.text(max_size=200), st.text(max_size=200) | st.binary(max_size=200))
def test_threat_44_any_message_is_one_line_of_ascii(text: str, value: str | bytes) -> None:
    """Whatever text and values hold, exactly one line of printable ASCII is written."""
    tool = Tool()
    try:
        tool.messages.info(text, value=value)
        data = os.read(tool.reader, 1 << 20)
    finally:
        tool.close()
    assert data.endswith(b"\n")
    assert data[:-1].decode("ascii").isprintable()


def test_a_line_is_never_longer_than_a_pipe_takes_whole(tool: Tool) -> None:
    tool.messages.info("long", a="\0" * 2000, b="\0" * 2000)
    (line,) = tool.lines()
    assert len(line) == LINE_BYTES - 1


def test_the_same_message_is_written_so_often_and_then_counted(tool: Tool) -> None:
    for i in range(BURST + 7):
        tool.messages.warning("again", number=i)
        tool.messages.warning("again and again") if i == 0 else None
    assert len(tool.lines()) == BURST + 1
    tool.now += WINDOW_SECONDS
    tool.messages.warning("again")
    assert tool.lines() == [f"2027-01-15T12:00:10.250Z warning again left_out={7}"]
    tool.messages.warning("again")
    assert tool.lines() == ["2027-01-15T12:00:10.250Z warning again"]


@pytest.mark.threat(51)
def test_threat_51_a_clock_that_jumps_back_does_not_silence_messages(tool: Tool) -> None:
    for _ in range(BURST + 1):
        tool.messages.info("again")
    tool.lines()
    tool.now = -5.0
    tool.messages.info("again")
    assert tool.lines() == ["1970-01-01T00:00:00.000Z info again left_out=1"]


def test_texts_remembered_are_bounded(tool: Tool) -> None:
    for i in range(TEXTS + 5):
        tool.messages.info(f"text {i}")
        tool.lines()
    assert len(tool.messages._windows) <= TEXTS


@pytest.mark.threat(51)
@pytest.mark.parametrize("blocking", [True, False])
def test_threat_51_a_reader_that_stalls_misses_messages_and_nobody_waits(tool: Tool, blocking: bool) -> None:
    fill(tool.end)
    os.set_blocking(tool.end, blocking)
    tool.messages.info("lost")
    assert tool.messages.lost == 1
    while tool.lines():
        pass
    tool.messages.info("heard")
    assert tool.lines() == ["2027-01-15T12:00:00.250Z info heard"]
    assert tool.messages.lost == 1


@pytest.mark.threat(51)
def test_threat_51_a_reader_that_is_gone_is_survived() -> None:
    reader, end = os.pipe()
    messages = Messages(lambda: NOON, fd=end)
    os.close(reader)
    messages.info("lost")
    assert messages.lost == 1
    os.close(end)
