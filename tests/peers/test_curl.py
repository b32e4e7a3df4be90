"""curl as the agent behind the outbound listener, and as a caller with a certificate at the inbound port."""

from __future__ import annotations

import hashlib
import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, PLANNER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.processes import Pair

pytestmark = pytest.mark.needs("curl")

LARGE = 12 * 1024 * 1024
WRITE_OUT = ("-w", "%{stderr}%{http_version} %{response_code} %{num_connects}\n")


class Curl:
    """curl with one way to the pair: through the agent's listener, or as a caller."""

    def __init__(self, pair: Pair, way: str) -> None:
        self.pair = pair
        if way == "agent":
            self.base = f"http://{LOOPBACK}:{pair.planner.port('outbound')}"
            self.options: list[str] = []
        else:
            self.base = f"https://{LOOPBACK}:{pair.tools.port()}"
            files = (("--cert", "planner.crt"), ("--key", "planner.key"), ("--cacert", "ca.crt"))
            self.options = [word for option, name in files for word in (option, str(pair.site.path(name)))]
            # A SPIFFE certificate names no host, and curl can check nothing else: the chain alone it cannot do.
            self.options += ["--tlsv1.3", "--insecure"]

    def command(self, *arguments: str) -> list[str]:
        paths = [self.base + word if word.startswith("/") else word for word in arguments]
        return ["curl", "-sS", "--max-time", "30", *self.options, *paths]

    def run(self, *arguments: str, send: bytes | None = None, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(self.command(*arguments), input=send, capture_output=True, timeout=40, check=check)


@pytest.fixture(params=["agent", "caller"])
def curl(shared: Pair, request: pytest.FixtureRequest) -> Curl:
    return Curl(shared, request.param)


def said(done: subprocess.CompletedProcess[bytes]) -> list[Sequence[str]]:
    """HTTP version, status, and connections made, for each URL."""
    return [line.split() for line in done.stderr.decode().splitlines()]


def test_a_request_with_its_headers(curl: Curl) -> None:
    done = curl.run("-i", "/curl?a=1&b=%2F", "-H", "X-Own: yes", "-A", "tests/1", *WRITE_OUT)
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b"hello\n"
    assert said(done) == [["1.1", "200", "1"]]
    request = curl.pair.backend.of("/curl")[-1]
    assert request.line == "GET /curl?a=1&b=%2F HTTP/1.1"
    assert request.fields("x-own") == ["yes"]
    assert request.fields("user-agent") == ["tests/1"]
    assert request.fields("host") == [curl.base.rpartition("/")[2]]
    assert request.fields("x-sidecar-caller") == [PLANNER]


def test_http_1_0_closes_after_the_answer(curl: Curl) -> None:
    done = curl.run("--http1.0", "-i", "/curl-10", *WRITE_OUT)
    assert done.stdout.endswith(b"\r\n\r\nhello\n")
    assert b"\r\nConnection: close\r\n" in done.stdout
    assert b"transfer-encoding" not in done.stdout.lower()
    assert said(done)[0][1] == "200"


def test_head_has_the_length_and_no_body(curl: Curl) -> None:
    done = curl.run("--head", "/bytes/123456", *WRITE_OUT)
    assert b"\r\nContent-Length: 123456\r\n" in done.stdout
    assert done.stdout.endswith(b"\r\n\r\n")


def test_several_urls_share_one_connection(curl: Curl) -> None:
    done = curl.run("/curl-1", "/bytes/70000", "/curl-2", *WRITE_OUT)
    assert len(done.stdout) == 6 + 70000 + 6
    assert said(done) == [["1.1", "200", "1"], ["1.1", "200", "0"], ["1.1", "200", "0"]]


def test_an_upload_from_a_pipe_is_chunked(curl: Curl) -> None:
    content = bytes(range(256)) * 3000
    done = curl.run("-T", "-", "/sink", send=content)
    assert json.loads(done.stdout) == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert curl.pair.backend.of("/sink")[-1].fields("transfer-encoding") == ["chunked"]


def test_a_large_upload_and_download_arrive_whole(curl: Curl) -> None:
    file = curl.pair.site.path("large")
    content = b"0123456789abcdef" * (LARGE // 16)
    file.write_bytes(content)
    done = curl.run("-X", "POST", "--data-binary", f"@{file}", "/sink", "-H", "Content-Type: application/octet-stream")
    assert json.loads(done.stdout) == {"size": LARGE, "sha256": hashlib.sha256(content).hexdigest()}
    assert curl.run(f"/bytes/{LARGE}").stdout == b"x" * LARGE


def test_expect_100_continue_is_answered_by_the_server_behind(curl: Curl) -> None:
    done = curl.run("-v", "-X", "POST", "-H", "Expect: 100-continue", "--data-binary", "x" * 5000, "/sink")
    assert json.loads(done.stdout)["size"] == 5000
    assert b"< HTTP/1.1 100 Continue" in done.stderr


def test_server_sent_events_arrive_as_they_are_sent(curl: Curl) -> None:
    """Each event is awaited before the next one is sent; when curl is killed the server learns of it."""
    backend = curl.pair.backend
    abandoned = backend.abandoned
    process = curl.pair.site.process(*curl.command("-N", "/events"), stdout=subprocess.PIPE)
    assert process.stdout is not None
    eventually(lambda: backend.streams == 1, "the stream")
    for n in range(5):
        backend.emit(f"event {n}")
        assert process.stdout.readline() == f"data: event {n}\n".encode()
        assert process.stdout.readline() == b"\n"
    process.kill()
    eventually(lambda: backend.abandoned == abandoned + 1, "the server to be told that nobody listens")
    eventually(lambda: backend.streams == 0, "the stream's end")


def test_a_cut_answer_is_an_error_for_curl(curl: Curl) -> None:
    """18 is CURLE_PARTIAL_FILE: what is not whole never looks whole."""
    assert curl.run("/early", check=False).returncode == 18


@pytest.mark.threat(17, 26)
def test_threat_26_as_a_proxy_only_the_named_host_can_be_reached(shared: Pair) -> None:
    curl = Curl(shared, "agent")
    options = ("-x", curl.base, *WRITE_OUT)
    done = curl.run("http://tools.internal/curl-proxy", *options)
    assert said(done)[0][1] == "200"
    assert shared.backend.of("/curl-proxy")[-1].fields("host") == ["tools.internal"]
    for url in ("http://169.254.169.254/latest/meta-data", "http://127.0.0.1:22/", "http://tools.internal:81/"):
        assert said(curl.run(url, *options))[0][1] == "403", url
    for url in ("https://169.254.169.254/", "https://elsewhere.internal/"):
        done = curl.run(url, *options, check=False)
        assert done.returncode == 56, url  # CURLE_RECV_ERROR: the tunnel was refused
        assert b"403" in done.stderr
    # curl begins TLS inside CONNECT: that ends the connection, and the log says what to ask for instead.
    done = curl.run("https://tools.internal/", *options, check=False)
    assert done.returncode == 35  # CURLE_SSL_CONNECT_ERROR
    assert shared.planner.await_log(event="refused", error="agent_tls")


@pytest.mark.threat(3)
def test_threat_3_without_a_certificate_nothing_is_forwarded(shared: Pair) -> None:
    before = len(shared.backend.requests)
    done = Curl(shared, "agent").run("--insecure", f"https://{LOOPBACK}:{shared.tools.port()}/curl-none", check=False)
    assert done.returncode == 56
    assert b"certificate required" in done.stderr
    assert done.stdout == b""
    assert len(shared.backend.requests) == before
