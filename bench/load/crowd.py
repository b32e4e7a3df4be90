"""A program: some clients connect all at once, at each beat of a second; a full handshake each, then goodbye.

It says how many connected, and how long that took. A beat that takes longer than a second delays the next.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.load.connections import WrongAnswerError, shake
from bench.load.percentiles import percentile
from bench.load.tls import client_context, connect

if TYPE_CHECKING:
    from bench.load.tls import SSLContext

BEAT: Final = 1.0


def main(argv: list[str] | None = None) -> int:
    """Prints a JSON object, or what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--beats", type=int, required=True)
    for name in ("authority", "certificate", "key"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args(argv)
    context = client_context(args.authority, args.certificate, args.key)
    try:
        took = sorted(_crowd(context, args.port, args.clients, args.beats))
    except (OSError, WrongAnswerError) as error:
        print(f"crowd failed: {type(error).__name__}: {error}")
        return 1
    print(json.dumps({"handshakes": len(took), "p50_ms": percentile(took, 0.5) * 1e3, "worst_ms": took[-1] * 1e3}))
    return 0


def _crowd(context: SSLContext, port: int, clients: int, beats: int) -> list[float]:
    """Returns the seconds of each handshake."""
    took: list[float] = []
    start = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        for beat in range(beats):
            time.sleep(max(start + beat * BEAT - time.monotonic(), 0))
            took += pool.map(lambda _: _connect(context, port), range(clients))
    return took


def _connect(context: SSLContext, port: int) -> float:
    start = time.monotonic()
    with connect(port) as plain:
        shake(context, plain)
    return time.monotonic() - start


if __name__ == "__main__":
    sys.exit(main())
