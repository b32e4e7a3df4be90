from __future__ import annotations

from sidecar.keys.protection import Protection


def test_the_words_in_logs_and_metrics() -> None:
    assert [str(each) for each in Protection] == ["software", "tpm", "hsm", "remote"]
