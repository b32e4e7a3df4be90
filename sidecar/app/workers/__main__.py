"""``python -m sidecar.app.workers``: the processes that ``sidecar run`` starts for itself. Not for people."""

from __future__ import annotations

from sidecar.app.workers.command import main

if __name__ == "__main__":
    raise SystemExit(main())
