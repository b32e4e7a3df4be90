from __future__ import annotations

from sidecar.app.workers.process import Process
from tests.support.eventually import soon


async def test_one_that_is_killed_is_reaped() -> None:
    process = Process.start(["worker"])
    process.kill()
    process.kill()
    await soon(process.ended.done, "its end")
    assert process.ended.result() == -9
    process.sock.close()


async def test_one_whose_parent_is_gone_ends() -> None:
    process = Process.start(["signer"])
    process.sock.close()
    process.reap()
    await soon(process.ended.done, "its end")
    assert process.ended.result() == 1
