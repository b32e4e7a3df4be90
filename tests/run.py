"""The one way to run the tests: ``python -m tests.run [pytest arguments]``.

Names what the machine lacks before and after, runs on every core (``-n 0``: in one process), measures branch coverage
over all processes, and fails with ``CI`` set when anything was missing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.machine import report

ROOT = Path(__file__).parent.parent


def main(arguments: list[str]) -> int:
    lines = report()
    print(*lines, sep="\n", flush=True)  # noqa: T201 - this is a command
    if lines and os.environ.get("CI"):
        print("with CI set a missing part is a failure", file=sys.stderr)  # noqa: T201
        return 1
    coverage = [sys.executable, "-m", "coverage"]
    subprocess.run([*coverage, "erase"], cwd=ROOT, check=True)
    # What was asked for comes last, where it overrules. "worksteal": whoever is out of tests takes some of another's.
    pytest = ["-m", "pytest", "-n", str(os.cpu_count() or 1), "--dist", "worksteal", *arguments]
    result = subprocess.run([*coverage, "run", *pytest], cwd=ROOT, check=False)
    subprocess.run([*coverage, "combine", "--quiet"], cwd=ROOT, check=False)
    table = subprocess.run([*coverage, "report"], cwd=ROOT, check=False, capture_output=True, text=True)
    # The table first and the test runner's verdict last: the closing line is what people and machines read.
    print(table.stdout, flush=True)  # noqa: T201
    print(*lines, sep="\n", flush=True)  # noqa: T201
    print("tests passed" if result.returncode == 0 else f"tests failed (exit {result.returncode})")  # noqa: T201
    return result.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
