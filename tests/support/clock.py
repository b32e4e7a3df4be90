"""A clock that can be put forward or back, so that no test waits for a limit."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.clock import Clock

_REAL = Clock()


@dataclass
class Shifted:
    """The real clocks and what a test adds to them, in seconds."""

    wall: float = 0.0
    monotonic: float = 0.0

    def pass_by(self, seconds: float) -> None:
        """Lets time pass: both clocks agree on it."""
        self.wall += seconds
        self.monotonic += seconds

    @property
    def clock(self) -> Clock:
        return Clock(lambda: _REAL.wall() + self.wall, lambda: _REAL.monotonic() + self.monotonic)
