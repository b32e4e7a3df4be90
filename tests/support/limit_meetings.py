"""What clients do to meet a limit, each by a function that says what they saw of it: a status, an end, or both."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from sidecar.tls.engine import TlsEngine
from tests.support.eventually import eventually
from tests.support.limit_stage import DEAF, TCP, TROUBLE, answer, asked, end, fill, seen, send
from tests.support.processes import Pending, now
from tests.support.raw import talks
from tests.support.resources import MIB
from tests.support.tls import Ours, key_update, planner_context
from tests.support.wire import take_response

if TYPE_CHECKING:
    import http.client

    from tests.support.limit_stage import Meeting

CHUNKED = "Transfer-Encoding: chunked"


# -- connections


def one_connection_more(at: Meeting) -> str:
    """With room for two."""
    for _ in range(2):
        assert asked(at.client(), "GET /room").status == 200
    try:
        more = at.client()
    except OSError:  # in the middle of the handshake
        return "cut"
    return seen(more)


def one_connection_more_of_a_caller(at: Meeting) -> str:
    assert asked(at.client(), "GET /room").status == 200
    found = seen(at.client())
    assert asked(at.client(name="another"), "GET /another").status == 200
    return found


def one_tunnel_more_of_a_caller(at: Meeting) -> str:
    talks(at.client(TCP))
    return seen(at.client(TCP))


def one_handshake_more(at: Meeting) -> str:
    """With room for one: the oldest goes, and the newcomer is served."""
    oldest = at.raw()
    eventually(lambda: at.sidecar.metric("connections", direction=at.side) == 1, "the oldest to be there")
    assert asked(at.client(), "GET /newcomer").status == 200
    return end(oldest)


def handshakes_for_a_slow_device(at: Meeting) -> str:
    """Four are at work at a time, and one may wait."""
    assert at.stage.relay is not None
    at.stage.relay.delay = 0.3
    connections: list[http.client.HTTPSConnection] = []
    callers: list[Pending] = []

    def met() -> bool:
        connections.append(at.stage.site.caller(at.sidecar.port()))
        callers.append(Pending(connections[-1], "GET", "/slow"))
        return at.hits("handshake_queue") > 0

    eventually(met, "the limit to be met")
    at.stage.relay.delay = 0.0
    eventually(lambda: all(caller.over for caller in callers), "all callers to have an end")
    served = len([caller for caller in callers if _is_served(caller)])
    assert 0 < served == len(at.backend.of("/slow"))
    assert at.hits("handshake_queue") == len(callers) - served
    for connection in connections:
        connection.close()
    return "cut"


def _is_served(caller: Pending) -> bool:
    """Whether it was answered; whose handshake was refused was not."""
    try:
        return caller.answer().status == 200
    except OSError:
        return False


def handshake_with_a_device_that_hangs(at: Meeting) -> str:
    assert at.stage.tpm is not None
    at.stage.tpm.hang()
    try:
        at.client()
    except OSError:
        found = "cut"
    else:
        found = "a handshake"
    eventually(lambda: at.sidecar.ask("/ready").status == 503, "/ready to say so")
    at.stage.tpm.resume()
    eventually(lambda: at.sidecar.ready, "the key to sign again")
    return found


def silence_instead_of_a_handshake(at: Meeting) -> str:
    return seen(at.raw())


def key_updates_without_end(at: Meeting) -> str:
    """Records without data (RFC 8446 4.6.3), whose answers nobody reads."""
    sock = at.raw()
    context = planner_context(at.stage.site.identity("planner"), at.stage.site.ca.bundles)
    peer = Ours(TlsEngine(context, server_name="tools.internal"), now=now())
    peer.turn()
    while not peer.open:
        assert peer.error is None
        sock.sendall(peer.to_send())
        peer.receive(sock.recv(65536))
        peer.turn()
    try:
        for _ in range(5000):
            key_update(peer)
            peer.engine._object.do_handshake()  # sends it
            sock.sendall(peer.to_send())
    except ConnectionError:
        return "reset"
    return end(sock)


# -- heads and bodies


def a_long_head(at: Meeting) -> str:
    return _refused(at, "GET /refused", "X: " + "a" * 2000)


def a_long_target(at: Meeting) -> str:
    return _refused(at, "GET /refused?" + "a" * 200)


def many_fields(at: Meeting) -> str:
    return _refused(at, "GET /refused", *["X: a"] * 20)


def many_trailers(at: Meeting) -> str:
    trailers = b"X: a\r\n" * 20
    return _refused(at, "POST /refused", CHUNKED, body=b"1\r\na\r\n0\r\n" + trailers + b"\r\n")


def long_trailers(at: Meeting) -> str:
    trailer = b"X: " + b"a" * 10_000 + b"\r\n"
    return _refused(at, "POST /refused", CHUNKED, body=b"1\r\na\r\n0\r\n" + trailer + b"\r\n")


def a_long_chunk_line(at: Meeting) -> str:
    return _refused(at, "POST /refused", CHUNKED, body=b"1;" + b"a" * 5000 + b"\r\na\r\n0\r\n\r\n")


def a_large_body(at: Meeting) -> str:
    return _refused(at, "POST /refused", "Content-Length: 2000", body=b"x" * 2000)


def a_large_body_in_chunks(at: Meeting) -> str:
    return _refused(at, "POST /refused", CHUNKED, body=b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n")


def _refused(at: Meeting, line: str, *fields: str, body: bytes = b"") -> str:
    """A request that does not reach the server whole."""
    sock = at.client()
    send(sock, line, *fields, body=body)
    found = seen(sock)
    assert not at.backend.of("/refused")
    return found


# -- how many and how often


def requests_up_to_the_last(at: Meeting) -> str:
    """With room for two."""
    sock = at.client()
    first = asked(sock, "GET /first")
    assert (first.status, first.field(b"connection")) == (200, None)
    send(sock, "GET /last", "X-Note: none follows")
    data = bytearray()
    how = end(sock, data)
    assert b"\r\nConnection: close\r\n" in data
    return f"{data[9:12].decode()}, {how}"


def requests_without_a_pause(at: Meeting) -> str:
    return _too_fast(at, "planner", 2)


def requests_without_a_pause_of_somebody_else(at: Meeting) -> str:
    """Who has not asked yet has the whole burst."""
    return _too_fast(at, "another", 20)


def _too_fast(at: Meeting, name: str, burst: int) -> str:
    sock = at.client(name=name)
    served = len(at.backend.of("/fast"))
    before = served
    while (found := asked(sock, "GET /fast")).status == 200:
        served += 1
    assert served - before >= burst
    assert len(at.backend.of("/fast")) == served, "the server learns nothing of it"
    assert int(found.field(b"retry-after") or 0) >= 1
    return str(found.status)


# -- times of the downstream side


def half_a_head(at: Meeting) -> str:
    sock = at.client()
    sock.sendall(b"GET /refused HTTP/1.1\r\nHost: tools")
    return seen(sock)


def no_second_request(at: Meeting) -> str:
    sock = at.client()
    assert asked(sock, "GET /first").status == 200
    return seen(sock)


def half_a_body(at: Meeting) -> str:
    return _refused(at, "POST /refused", "Content-Length: 100000", body=b"x")


def a_dripping_body(at: Meeting) -> str:
    """Many times the default of ``min_rate``."""
    sock = at.client()
    send(sock, "POST /refused", "Content-Length: 10000000")
    while not select.select([sock], [], [], 0.05)[0]:
        sock.sendall(b"x" * 1000)
    return seen(sock)


def an_answer_that_nobody_reads(at: Meeting) -> str:
    sock = at.client()
    before = at.hits("stall_timeout")
    send(sock, f"GET /bytes/{16 * MIB}")
    eventually(lambda: at.hits("stall_timeout") > before, "the limit to be met")
    return seen(sock)


# -- upstreams


def a_body_that_the_server_does_not_read(at: Meeting) -> str:
    sock = at.client(DEAF)
    send(sock, "POST /deaf", f"Content-Length: {64 * MIB}")
    fill(sock, 0.7)
    return seen(sock)


def a_server_that_does_not_shake_hands(at: Meeting) -> str:
    return str(asked(at.client(DEAF), "GET /x").status)


def a_server_that_does_not_answer(at: Meeting) -> str:
    return str(asked(at.client(), "GET /hold/on").status)


def interim_responses_without_end(at: Meeting) -> str:
    sock = at.client()
    send(sock, "GET /hints/101")
    data, interim = bytearray(), 0
    while (found := take_response(data)) is None or found.status == 103:
        if found is not None:
            interim += 1
            continue
        piece = sock.recv(65536)
        assert piece, "the connection ended"
        data += piece
    assert interim == 100
    return str(found.status)


def a_spare_connection(at: Meeting) -> str:
    """Nobody notices its end."""
    sock = at.client()
    assert asked(sock, "GET /first").status == 200
    before = at.hits("upstream_idle_timeout")
    eventually(lambda: at.hits("upstream_idle_timeout") > before, "the limit to be met")
    found = asked(sock, "GET /next").status
    assert at.backend.connections >= 2
    return str(found)


def a_silent_stream(at: Meeting) -> str:
    sock = at.client()
    send(sock, "GET /events")
    return seen(sock)


def one_request_more_at_a_time(at: Meeting) -> str:
    """With room for one at the server, and little time to wait."""
    send(at.client(), "GET /hold/place")
    at.backend.await_held()
    return str(asked(at.client(), "GET /more").status)


def one_tunnel_more_at_the_server(at: Meeting) -> str:
    """With room for one."""
    talks(at.client(TCP))
    try:
        return seen(at.client(TCP))
    except ConnectionResetError:  # before it was a connection
        return "reset"


def one_request_more_in_line(at: Meeting) -> str:
    """With room for one at the server, and for one to wait."""
    first = at.client()
    send(first, "GET /hold/place")
    at.backend.await_held()
    before = at.hits("upstream_waiting")
    two = [at.client() for _ in range(2)]
    for sock in two:
        send(sock, "GET /more")
    eventually(lambda: at.hits("upstream_waiting") > before, "one of them to be refused")
    at.backend.release()
    assert answer(first).status == 200
    statuses = sorted(answer(sock).status for sock in two)
    assert statuses[0] == 200, "who waited is served"
    return str(statuses[1])


def a_server_that_hangs_up_on_every_second_request(at: Meeting) -> str:
    """After a first ten, one in five may be tried again."""
    sock = at.client(TROUBLE)
    served = 0
    while (found := asked(sock, "GET /trouble")).status == 200:
        served += 1
    assert served >= 10
    return str(found.status)


# -- the ends of what is long


def a_request_that_lasts(at: Meeting) -> str:
    return str(asked(at.client(), "GET /hold/long").status)


def a_tunnel_in_which_nothing_moves(at: Meeting) -> str:
    sock = at.client(TCP)
    talks(sock)
    return seen(sock)


def a_tunnel_that_talks_on(at: Meeting) -> str:
    sock = at.client(TCP)
    try:
        while True:
            talks(sock, b"x")
    except OSError:
        return "reset" if at.side == "outbound" else "cut"
