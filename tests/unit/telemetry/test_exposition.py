from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from sidecar.telemetry.metrics import Metrics
metrics = Metrics()
before = "prometheus_client" in sys.modules
metrics.render()
print(before, "prometheus_client" in sys.modules)
"""


def test_the_library_is_loaded_by_the_first_scrape_only() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True, text=True)
    assert result.stdout.split() == ["False", "True"]
