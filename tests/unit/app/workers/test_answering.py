from __future__ import annotations

import pytest

from sidecar import __version__
from sidecar.app.workers.answering import check_version
from sidecar.app.workers.wire import WorkerError


def test_a_package_that_was_replaced_under_a_running_parent_serves_nothing() -> None:
    check_version({"version": __version__})
    with pytest.raises(WorkerError, match=r"is sidecar .* by now") as raised:
        check_version({"version": "0.0.0"})
    assert str(raised.value.code) == "worker_version"
