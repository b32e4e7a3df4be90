"""What two ends do to each other's reading, whatever was written before they were joined."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from sidecar.proxy.splice import Leg, Owner

if TYPE_CHECKING:
    from sidecar.proxy.stream import Stream


class FakeStream:
    def __init__(self, *, full: bool) -> None:
        self.writing_paused = full
        self.reading_paused = False
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def pause_reading(self) -> None:
        self.reading_paused = True

    def resume_reading(self) -> None:
        self.reading_paused = False


def leg(*, full: bool = False) -> tuple[Leg, FakeStream]:
    made, stream = Leg(cast("Owner", object())), FakeStream(full=full)
    made.stream = cast("Stream", stream)
    return made, stream


@pytest.mark.threat(48)
@pytest.mark.parametrize("held", [b"", b"early"])
def test_threat_48_nobody_is_read_for_an_end_that_took_no_more_before_they_were_joined(held: bytes) -> None:
    slow, slow_stream = leg(full=True)
    fast, fast_stream = leg()
    if held:
        fast.received(held)
    slow.join(fast)
    assert fast_stream.reading_paused
    assert not slow_stream.reading_paused
    assert slow_stream.written == ([held] if held else [])
    slow.writable(yes=True)
    assert not fast_stream.reading_paused
