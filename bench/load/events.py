"""A program: reads one stream of server-sent events for some seconds and checks that none is lost or out of order."""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time

from bench.load.percentiles import percentile
from bench.processes import HOST


class GapError(Exception):
    """An event is missing, or the stream ended."""


def main(argv: list[str] | None = None) -> int:
    """Prints the number of events and their delay as a JSON object, or what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    args = parser.parse_args(argv)
    connection = http.client.HTTPConnection(HOST, args.port, timeout=10)
    try:
        connection.request("GET", "/events")
        delays = read(connection.getresponse(), args.seconds)
    except (OSError, http.client.HTTPException, GapError) as error:
        print(f"events failed: {type(error).__name__}: {error}")
        return 1
    finally:
        connection.close()
    print(json.dumps({"events": len(delays), "p50_ms": percentile(delays, 0.5), "p99_ms": percentile(delays, 0.99)}))
    return 0


def read(response: http.client.HTTPResponse, seconds: float) -> list[float]:
    """Reads events for that long; returns the milliseconds from sending to receiving of each, in rising order."""
    if response.status != http.client.OK:
        raise GapError(f"the answer is {response.status}")
    delays: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        line = response.readline()
        if not line:
            raise GapError(f"the stream ended after {len(delays)} events")
        if line.startswith(b"data: "):
            event = json.loads(line.removeprefix(b"data: "))
            if event["n"] != len(delays) + 1:
                raise GapError(f"event {event['n']} came after {len(delays)}")
            delays.append((time.monotonic_ns() - event["sent"]) / 1e6)
    return sorted(delays)


if __name__ == "__main__":
    sys.exit(main())
