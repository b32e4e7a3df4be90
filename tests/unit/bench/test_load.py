"""Our own load generators, against servers that behave and servers that do not."""

from __future__ import annotations

import io
import json
import random
import ssl
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from bench.backend import events as event_server
from bench.certificates import CALLER
from bench.load import connections, crowd, events, holder, paced, waits
from bench.load.percentiles import percentile
from bench.load.probe import answers, answers_strangers, answers_tls, asks_for_token

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.certificates import Certificates
    from bench.load.tls import SSLContext

    Serve = Callable[..., Any]


def identity(certificates: Certificates, name: str = CALLER) -> list[str]:
    files = {
        "authority": certificates.authority,
        "certificate": certificates.certificate(name),
        "key": certificates.key(name),
    }
    return [word for option, path in files.items() for word in (f"--{option}", str(path))]


def last_line(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


# -- percentiles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (0.999, 100), (0.0, 1), (1.0, 100)])
def test_percentiles_are_the_nearest_rank(share: float, value: float) -> None:
    assert percentile(range(1, 101), share) == value


def test_percentiles_of_nothing_are_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 0.5)


def test_a_percentile_is_a_value_that_this_share_does_not_exceed() -> None:
    sample = sorted(random.Random(1).random() for _ in range(997))  # noqa: S311 - no secret
    for share in (0.01, 0.5, 0.9, 0.999):
        value = percentile(sample, share)
        assert sum(each <= value for each in sample) >= share * len(sample)
        assert sum(each < value for each in sample) < share * len(sample)


# -- probes -----------------------------------------------------------------------------------------------------------


def test_a_probe_tells_an_answer_from_none(serve: Serve) -> None:
    assert answers(serve().port)
    assert not answers(serve(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").port)
    assert not answers(1)


def test_a_probe_over_tls_shows_its_certificate(
    serve: Serve, accepting: SSLContext, certificates: Certificates
) -> None:
    port = serve(context=accepting).port
    assert answers_tls(port, certificates)
    assert not answers_strangers(port)


def test_a_server_that_takes_anybody_is_noticed(serve: Serve, accepting: SSLContext) -> None:
    accepting.verify_mode = ssl.CERT_NONE
    assert answers_strangers(serve(context=accepting).port)


def test_who_asks_for_a_token_is_told_from_who_does_not(
    serve: Serve, accepting: SSLContext, certificates: Certificates
) -> None:
    refusal = b"HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer\r\ncontent-length: 0\r\n\r\n"
    assert asks_for_token(serve(refusal, context=accepting).port, certificates)
    assert not asks_for_token(serve(context=accepting).port, certificates)
    assert not asks_for_token(1, certificates)


# -- new connections --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["handshake", "full", "resumed"])
def test_connections_are_counted(
    mode: str,
    serve: Serve,
    accepting: SSLContext,
    certificates: Certificates,
    capsys: pytest.CaptureFixture[str],
) -> None:
    port = serve(context=accepting).port
    code = connections.main([mode, "--port", str(port), "--seconds", "0.1", *identity(certificates)])
    found = last_line(capsys)
    assert code == 0
    assert found["connections"] > 0
    assert found["resumed"] == (found["connections"] - 1 if mode == "resumed" else 0)


def test_a_server_that_does_not_resume_is_told(
    serve: Serve, accepting: SSLContext, certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    accepting.num_tickets = 0
    port = serve(context=accepting).port
    code = connections.main(["resumed", "--port", str(port), "--seconds", "0.2", *identity(certificates)])
    assert code == 1
    assert "were resumed, not" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["handshake", "full"])
def test_a_refused_certificate_is_told(
    mode: str,
    serve: Serve,
    accepting: SSLContext,
    certificates: Certificates,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from bench.load.tls import SSLContext

    strict = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    strict.load_cert_chain(certificates.certificate("tools"), certificates.key("tools"))
    strict.verify_mode = ssl.CERT_REQUIRED  # and trusts nobody
    port = serve(context=strict).port
    assert connections.main([mode, "--port", str(port), "--seconds", "0.1", *identity(certificates)]) == 1
    assert mode in capsys.readouterr().out


def test_an_answer_other_than_200_is_told(
    serve: Serve, accepting: SSLContext, certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    port = serve(b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n", context=accepting).port
    assert connections.main(["full", "--port", str(port), "--seconds", "0.1", *identity(certificates)]) == 1
    assert "HTTP/1.1 403" in capsys.readouterr().out


# -- idle connections -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [True, False])
def test_idle_connections_are_held_until_input_ends(
    tls: bool,
    serve: Serve,
    accepting: SSLContext,
    certificates: Certificates,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    port = serve(context=accepting if tls else None).port
    assert holder.main(["--port", str(port), "--count", "5", *(identity(certificates) if tls else [])]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"open": 5}, {"open": 5, "closed": 0}]


def test_connections_that_the_other_side_closed_are_counted(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(closes=True)

    class Input(io.StringIO):
        def read(self, _: int | None = -1) -> str:
            server.shutdown()
            server.server_close()  # waits for its threads, so every connection is closed by then
            return ""

    server.daemon_threads = False
    monkeypatch.setattr("sys.stdin", Input())
    assert holder.main(["--port", str(server.port), "--count", "3"]) == 0
    assert last_line(capsys) == {"open": 3, "closed": 3}


@pytest.mark.parametrize("answer", [b"HTTP/1.1 503 Busy\r\n\r\nhello, world\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_connection_without_its_answer_is_not_held(
    answer: bytes, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    assert holder.main(["--port", str(serve(answer, closes=True).port), "--count", "1"]) == 1
    assert "a connection to hold" in capsys.readouterr().out


# -- a crowd, and whoever has to wait for it ----------------------------------------------------------------------------


def test_a_crowd_connects_at_each_beat(
    serve: Serve,
    accepting: SSLContext,
    certificates: Certificates,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crowd, "BEAT", 0.01)
    port = serve(context=accepting).port
    assert crowd.main(["--port", str(port), "--clients", "3", "--beats", "2", *identity(certificates)]) == 0
    found = last_line(capsys)
    assert found["handshakes"] == 6
    assert 0 < found["p50_ms"] <= found["worst_ms"]


def test_a_crowd_that_is_refused_is_told(certificates: Certificates, capsys: pytest.CaptureFixture[str]) -> None:
    assert crowd.main(["--port", "1", "--clients", "2", "--beats", "1", *identity(certificates)]) == 1
    assert "crowd failed: ConnectionRefusedError" in capsys.readouterr().out


def test_waits_are_those_of_answers(
    serve: Serve, accepting: SSLContext, certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    port = serve(context=accepting).port
    assert waits.main(["--port", str(port), "--seconds", "0.1", *identity(certificates)]) == 0
    found = last_line(capsys)
    assert found["requests"] > 1
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["worst_ms"]


class SlowAnswers:
    """A connection on which the n-th answer takes as long as told; the clock moves when somebody waits."""

    def __init__(self, clock: list[float], *took: float) -> None:
        self.clock, self.took = clock, list(took)

    def sendall(self, _: bytes) -> None:
        return None

    def recv(self, _: int) -> bytes:
        self.clock[0] += self.took.pop(0) if self.took else 0.001
        return b"HTTP/1.1 200 OK\r\n\r\nhello, world\n"


def test_the_longest_wait_counts_but_for_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(waits.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(waits.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    took = waits._waits(SlowAnswers(clock, 5.0, 0.001, 0.2), 1, 1.0)  # type: ignore[arg-type]
    assert round(max(took), 6) == 0.2
    assert len(took) > 100


@pytest.mark.parametrize("answer", [b"HTTP/1.1 503 Busy\r\n\r\nhello, world\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_wait_for_a_wrong_answer_is_told(
    answer: bytes,
    serve: Serve,
    accepting: SSLContext,
    certificates: Certificates,
    capsys: pytest.CaptureFixture[str],
) -> None:
    port = serve(answer, closes=True, context=accepting).port
    assert waits.main(["--port", str(port), "--seconds", "0.1", *identity(certificates)]) == 1
    assert "waits failed: WrongAnswerError" in capsys.readouterr().out


# -- a fixed rate -----------------------------------------------------------------------------------------------------


def test_every_request_of_the_schedule_is_sent_and_answered(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--port", str(serve().port), "--rate", "200", "--seconds", "0.2", "--connections", "3"]
    assert paced.main(arguments) == 0
    found = last_line(capsys)
    assert found["requests"] == 40
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["p999_ms"]


def test_a_wrong_answer_ends_it(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    port = serve(b"HTTP/1.1 503 Busy\r\n\r\nhello, world\n").port
    assert paced.main(["--port", str(port), "--rate", "100", "--seconds", "0.1"]) == 1
    assert "503" in capsys.readouterr().out


class Slow:
    """A connection whose answers take as long as the clock says; the clock moves when somebody waits."""

    def __init__(self, clock: list[float], took: list[float]) -> None:
        self.clock, self.took = clock, took

    def sendall(self, _: bytes) -> None:
        return None

    def recv(self, _: int) -> bytes:
        return b"HTTP/1.1 200 OK\r\n\r\nhello, world\n"


def test_a_wait_for_a_free_connection_counts_as_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection, ten requests a second; the first answer takes a second, the others nothing."""
    clock, took = [100.0], [1.0]
    monkeypatch.setattr(paced.time, "monotonic", lambda: clock[0])

    def wait(busy: list[Slow], _write: list[Slow], _error: list[Slow], seconds: float) -> tuple[list[Slow], ...]:
        clock[0] += took.pop() if busy and took else (0.0 if busy else seconds)
        return busy, [], []

    monkeypatch.setattr(paced.select, "select", wait)
    pacer = paced.Pacer(b"", deque([Slow(clock, took)]))  # type: ignore[list-item]
    pacer.run(rate=10.0, seconds=1.0)
    assert [round(latency, 3) for latency in pacer.latencies] == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]


def test_answers_that_never_come_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(paced.time, "monotonic", lambda: clock[0])

    def wait(_busy: object, _write: object, _error: object, seconds: float) -> tuple[list[Slow], ...]:
        clock[0] += max(seconds, 0.001)
        return [], [], []

    monkeypatch.setattr(paced.select, "select", wait)
    pacer = paced.Pacer(b"", deque([Slow(clock, [])]))  # type: ignore[list-item]
    with pytest.raises(paced.WrongAnswerError, match="10 of 10 requests were not answered"):
        pacer.run(rate=10.0, seconds=1.0)


# -- events -----------------------------------------------------------------------------------------------------------


def test_events_are_read_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    with event_server.Server(("127.0.0.1", 0), event_server.Stream) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        port = server.server_address[1]
        assert answers(port)
        assert events.main(["--port", str(port), "--seconds", "0.2"]) == 0
        server.shutdown()
    found = last_line(capsys)
    assert found["events"] > 1
    assert 0 < found["p50_ms"] <= found["p99_ms"]


class Stream:
    """A response of these lines."""

    def __init__(self, *numbers: int, status: int = 200) -> None:
        self.status = status
        self.lines = [line for n in numbers for line in (f'data: {{"n": {n}, "sent": 0}}\n'.encode(), b"\n")]

    def readline(self) -> bytes:
        return self.lines.pop(0) if self.lines else b""


@pytest.mark.parametrize(
    ("stream", "told"),
    [
        (Stream(1, 2, 4), "event 4 came after 2"),
        (Stream(1, 1), "event 1 came after 1"),
        (Stream(1, 2), "the stream ended after 2 events"),
        (Stream(status=502), "the answer is 502"),
    ],
)
def test_a_gap_in_a_stream_is_told(stream: Stream, told: str) -> None:
    with pytest.raises(events.GapError, match=told):
        events.read(stream, 10.0)  # type: ignore[arg-type]
