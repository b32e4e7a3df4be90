from __future__ import annotations

import json

from sidecar.clock import Clock
from sidecar.keys.errors import SignCode
from sidecar.signer.log import REFUSED_BURST, WINDOW_SECONDS, KeyFacts, UseCode, UseLog
from sidecar.sockets import Peer
from tests.support.signer_service import KeptLines


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def clock(self) -> Clock:
        return Clock(wall=lambda: 1_800_014_400.25, monotonic=lambda: self.now)


def made(time: Time) -> tuple[UseLog, KeptLines]:
    lines = KeptLines()
    return UseLog(lines, KeyFacts("sha256:abc", "tpm"), time.clock()), lines


def test_a_use() -> None:
    log, lines = made(Time())
    log.sign(Peer(812, 1000), "self-test", UseCode.OK, 0.0123456)
    assert lines.lines[0] == (
        b'{"time":"2027-01-15T12:00:00.250Z","event":"sign","peer.pid":812,"peer.uid":1000,"purpose":"self-test",'
        b'"result":"ok","duration_ms":12.346,"key.protection":"tpm","pin":"sha256:abc"}\n'
    )
    log.sign(Peer(None, None), None, SignCode.REFUSED, 0.0)
    line = json.loads(lines.lines[1])
    assert (line["purpose"], line["result"], line["peer.pid"]) == (None, "signer_refused", None)


def test_refusals_are_bounded_and_those_left_out_are_counted() -> None:
    """Whoever may connect cannot push the uses out of the log."""
    time = Time()
    log, lines = made(time)
    for _ in range(REFUSED_BURST + 7):
        log.refused(Peer(9, 9), UseCode.UID)
    assert len(lines.of("refused")) == REFUSED_BURST
    assert "left_out" not in lines.of("refused")[-1]
    log.sign(Peer(812, 1000), "self-test", UseCode.OK, 0.0)
    assert len(lines.of("sign")) == 1
    time.now += WINDOW_SECONDS
    log.refused(Peer(9, 9), UseCode.UID)
    log.refused(Peer(9, 9), UseCode.UID)
    assert [line.get("left_out") for line in lines.of("refused")[REFUSED_BURST:]] == [7, None]
    assert lines.of("refused")[0]["result"] == "signer_peer_uid"
