"""What stops one cell of the table, and what stops everything."""

from __future__ import annotations


class CouldNotRunError(Exception):
    """A peer could not be started, or a round of it went wrong. The text is shown in its cell."""


class UsageError(Exception):
    """The command line, or the machine, is wrong. The text says what to change."""
