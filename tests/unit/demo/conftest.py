from __future__ import annotations

from tests.support.machine import missing

# The demo's packages come in one extra, and its files import them at their top.
collect_ignore_glob = ["test_*.py"] if missing("mcp") else []
