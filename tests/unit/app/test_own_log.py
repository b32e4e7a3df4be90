from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import yaml

from sidecar.app.own_log import OwnLog
from sidecar.clock import Clock
from sidecar.config.load import load
from sidecar.config.values import LogFull
from sidecar.telemetry.record import Event, Record
from sidecar.telemetry.sink import SinkError
from tests.support.log import KeptMessages
from tests.support.server import configuration

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.config.values import Config


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "sidecar.yaml").write_text(yaml.safe_dump(configuration(tmp_path, 8080)))
    return load(tmp_path / "sidecar.yaml", now=Clock().wall()).config


def opened(config: Config) -> OwnLog:
    return OwnLog(config, loop=asyncio.get_running_loop(), messages=KeptMessages(), turns=None)


async def test_another_one_is_opened_only_where_something_of_it_changes(config: Config, tmp_path: Path) -> None:
    log = opened(config)
    assert log.another(config, config) is None
    for change in (replace(config, access_log=tmp_path / "other.log"), replace(config, log_full=LogFull.DENY)):
        other = log.another(config, change)
        assert other is not None
        other.close()
    with pytest.raises(SinkError):
        log.another(config, replace(config, access_log=tmp_path / "missing" / "x.log"))
    log.now.close()


async def test_the_old_one_is_written_out_and_what_it_dropped_still_counts(config: Config, tmp_path: Path) -> None:
    log = opened(config)
    old = log.now
    old.write(Record(0.0, Event.START))
    other = log.another(config, replace(config, access_log=tmp_path / "other.log"))
    assert other is not None
    await log.replace(other)
    assert log.now is other
    assert (tmp_path / "access.log").read_bytes().count(b"\n") == 1
    assert log.dropped == 0
    other.close()
    other.write(Record(0.0, Event.STOP))  # too late
    assert log.dropped == 1
    third = log.another(config, replace(config, access_log=tmp_path / "third.log"))
    assert third is not None
    await log.replace(third)
    assert log.dropped == 1
    third.close()
    third.write(Record(0.0, Event.STOP))
    assert log.dropped == 2
