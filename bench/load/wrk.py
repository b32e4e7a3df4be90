"""wrk: as many requests as go through, on a fixed number of connections."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from bench.errors import CouldNotRunError
from bench.processes import HOST, PATIENCE
from bench.programs import lacking, path_of

if TYPE_CHECKING:
    from bench.site import Site

#: Marks the line with our own report: wrk's own text rounds its numbers.
MARK: Final = "bench-report "

_SCRIPT: Final = """
%s
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n%s{"requests":%%.0f,"bytes":%%.0f,"p50_us":%%.0f,"p99_us":%%.0f,' ..
    '"errors":{"connect":%%.0f,"read":%%.0f,"write":%%.0f,"status":%%.0f,"timeout":%%.0f}}\\n',
    summary.requests, summary.bytes, latency:percentile(50), latency:percentile(99),
    e.connect, e.read, e.write, e.status, e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What to send. ``upload`` is the size of a POST body in bytes; 0 is a GET."""

    path: str = "/"
    connections: int = 32
    upload: int = 0


@dataclass(frozen=True, slots=True)
class Sent:
    """What came back: complete answers, bytes received, and latencies in microseconds as wrk saw them at full load."""

    requests: int
    bytes: int
    p50_us: float
    p99_us: float

    @classmethod
    def parse(cls, output: str) -> Self:
        """Reads the report in what wrk printed; raises CouldNotRunError when it is not there or tells of an error."""
        line = next((line for line in output.splitlines() if line.startswith(MARK)), None)
        if line is None:
            raise CouldNotRunError(f"wrk said nothing of its work: {output.strip() or 'no output'}")
        report: dict[str, Any] = json.loads(line.removeprefix(MARK))
        errors = {name: count for name, count in report["errors"].items() if count}
        if errors:
            told = ", ".join(f"{count} {name}" for name, count in errors.items())
            raise CouldNotRunError(f"errors under load: {told} (of {report['requests']} requests)")
        if not report["requests"]:
            raise CouldNotRunError("no request was answered under load")
        return cls(report["requests"], report["bytes"], report["p50_us"], report["p99_us"])


def missing() -> str | None:
    """Says that wrk is not there."""
    return lacking("wrk", package="wrk")


def run(site: Site, port: int, load: Load, seconds: float) -> Sent:
    """Sends for that long, on the core of the load. Raises CouldNotRunError for any error and any answer but 2xx or 3xx."""
    post = f'wrk.method = "POST"; wrk.body = string.rep("x", {load.upload})' if load.upload else ""
    script = site.file("report.lua", _SCRIPT % (post, MARK))
    duration = max(1, round(seconds))
    url = f"http://{HOST}:{port}{load.path}"
    options = ["-t1", f"-c{load.connections}", f"-d{duration}s", "--timeout", "10s", "-s", str(script)]
    process = site.crew.start("wrk", site.crew.load_core, path_of("wrk"), *options, url)
    try:
        process.popen.wait(duration + PATIENCE)
    except subprocess.TimeoutExpired:
        raise CouldNotRunError(f"wrk has not ended {PATIENCE:.0f} s after its time") from None
    finally:
        site.crew.end([process])
    return Sent.parse(process.log.read_text())
