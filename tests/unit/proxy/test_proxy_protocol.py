from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.proxy.proxy_protocol import Origin, encode, preface
from tests.support.proxy_header import Header, split
from tests.support.tunnels import Bench

ORIGIN = Origin(
    source=("192.0.2.1", 4711),
    destination=("192.0.2.2", 8443),
    unique_id="0123456789abcdef0123456789abcdef",
    spiffe_id="spiffe://example.org/agent/planner/1",
    tls_version="TLSv1.3",
    cipher="TLS_AES_256_GCM_SHA384",
    presented=True,
)
FULL, RESUMED = 0x07, 0x05


def header(origin: Origin) -> Header:
    found, rest = split(encode(origin))
    assert rest == b""
    return found


def test_a_header_by_its_bytes() -> None:
    assert encode(ORIGIN).hex(" ") == (
        "0d 0a 0d 0a 00 0d 0a 51 55 49 54 0a 21 11 00 81 "
        "c0 00 02 01 c0 00 02 02 12 67 20 fb "
        "05 00 20 " + ORIGIN.unique_id.encode().hex(" ") + " "
        "20 00 28 07 00 00 00 00 "
        "21 00 07 54 4c 53 76 31 2e 33 "
        "23 00 16 " + ORIGIN.cipher.encode().hex(" ") + " "
        "e0 00 24 " + ORIGIN.spiffe_id.encode().hex(" ")
    )


def test_what_is_told() -> None:
    found = header(replace(ORIGIN, alpn="http/1.1", authority="Tools.example.org"))
    assert found == Header(
        family=0x11,
        source=("192.0.2.1", 4711),
        destination=("192.0.2.2", 8443),
        tlvs=found.tlvs,
        flags=FULL,
        verify=0,
        ssl_tlvs=[(0x21, b"TLSv1.3"), (0x23, b"TLS_AES_256_GCM_SHA384")],
    )
    assert [kind for kind, _ in found.tlvs] == [0x01, 0x02, 0x05, 0x20, 0xE0]
    assert found[0x01] == b"http/1.1"
    assert found[0x02] == b"Tools.example.org"
    assert found[0x05] == ORIGIN.unique_id.encode()
    assert found[0xE0] == ORIGIN.spiffe_id.encode()


def test_a_resumed_session_differs_by_one_flag() -> None:
    full, resumed = header(ORIGIN), header(replace(ORIGIN, presented=False))
    assert (full.flags, resumed.flags) == (FULL, RESUMED)
    assert replace(resumed, flags=FULL, tlvs=full.tlvs) == full
    assert [tlv for tlv in resumed.tlvs if tlv[0] != 0x20] == [tlv for tlv in full.tlvs if tlv[0] != 0x20]


@pytest.mark.parametrize(
    ("source", "destination", "family", "told"),
    [
        (("::1", 1, 0, 0), ("::2", 2, 0, 0), 0x21, (("::1", 1), ("::2", 2))),
        (("::ffff:192.0.2.1", 1, 0, 0), ("::ffff:192.0.2.2", 2, 0, 0), 0x11, (("192.0.2.1", 1), ("192.0.2.2", 2))),
        (("192.0.2.1", 1), ("::ffff:192.0.2.2", 2, 0, 0), 0x11, (("192.0.2.1", 1), ("192.0.2.2", 2))),
        (("192.0.2.1", 1), ("2001:db8::2", 2, 0, 0), 0x21, (("::ffff:192.0.2.1", 1), ("2001:db8::2", 2))),
        (("fe80::1%eth0", 1, 0, 3), ("fe80::2%eth0", 2, 0, 3), 0x21, (("fe80::1", 1), ("fe80::2", 2))),
        ("/run/caller.sock", "/run/ours.sock", 0x00, (None, None)),
        ("", "", 0x00, (None, None)),
        (None, ("192.0.2.2", 2), 0x00, (None, None)),
        (("192.0.2.1", 1), None, 0x00, (None, None)),
        (("localhost", 1), ("192.0.2.2", 2), 0x00, (None, None)),
    ],
    ids=["v6", "mapped", "half-mapped", "mixed", "with-a-zone", "unix", "unnamed", "no-source", "no-end", "a-name"],
)
def test_addresses(source: object, destination: object, family: int, told: tuple[object, object]) -> None:
    found = header(replace(ORIGIN, source=source, destination=destination))
    assert (found.family, (found.source, found.destination)) == (family, told)
    assert found[0xE0] == ORIGIN.spiffe_id.encode()


@pytest.mark.parametrize(
    "name", [None, "", "a\\x00b", "a b", "a\nb", "a" * 256, "caf\u00e9.example", "PROXY TCP4 1.2.3.4"]
)
def test_a_name_that_no_host_has_is_left_out(name: str | None) -> None:
    assert 0x02 not in header(replace(ORIGIN, authority=name))


addresses = st.tuples(st.ip_addresses().map(str), st.integers(0, 65535)) | st.none()
texts = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=2048)


@given(addresses, addresses, texts, texts, st.booleans(), st.none() | texts, st.none() | texts)
def test_whatever_is_told_is_read_again(
    source: tuple[str, int] | None,
    destination: tuple[str, int] | None,
    spiffe_id: str,
    cipher: str,
    presented: bool,
    alpn: str | None,
    authority: str | None,
) -> None:
    """Invariant: a header is one that an independent reader takes apart into what was told, with nothing behind it."""
    origin = Origin(source, destination, "id", spiffe_id, "TLSv1.3", cipher, presented, alpn, authority)
    found = header(origin)
    assert found[0xE0] == spiffe_id.encode()
    assert found.ssl_tlvs == [(0x21, b"TLSv1.3"), (0x23, cipher.encode())]
    assert (found.flags, found.verify) == (FULL if presented else RESUMED, 0)
    assert (0x01 in found) is (alpn is not None)
    if source is None or destination is None:
        assert found.family == 0x00
    else:
        assert found.source is not None
        assert found.source[1] == source[1]
        told = ipaddress.ip_address(found.source[0])
        meant = ipaddress.ip_address(source[0])
        plain = [getattr(ip, "ipv4_mapped", None) or ip for ip in (told, meant)]
        assert plain[0] == plain[1]


# -- in front of a tunnel


async def told(bench: Bench) -> tuple[Header, bytes]:
    bench.service.way = replace(bench.service.way, preface=preface)
    bench.down.send(b"the caller speaks first")
    await bench.stands()
    await bench.pump()
    return split(bytes(bench.up.received))


async def test_the_header_is_in_front_of_what_the_caller_sent_before() -> None:
    bench = Bench("inbound")
    found, rest = await told(bench)
    assert rest == b"the caller speaks first"
    assert (found.source, found.destination) == (("192.0.2.1", 4711), ("192.0.2.2", 8443))
    assert found[0x05] == b"id"
    assert found[0xE0] == str(bench.tunnel.peer.id).encode()  # type: ignore[union-attr]  # it was proven
    assert (found.flags, found.ssl_tlvs[0]) == (FULL, (0x21, b"TLSv1.3"))


async def test_the_header_comes_once_and_counts_as_nothing() -> None:
    bench = Bench("inbound")
    await told(bench)
    before = len(bench.up.received)
    bench.down.send(b" and more")
    bench.up.send(b"answer")
    await bench.pump()
    assert bench.up.received[before:] == b" and more"
    assert bench.down.received == b"answer"
    assert bench.tunnel.counts() == (len(b"answer"), len(b"the caller speaks first and more"))


async def test_an_upstream_that_speaks_first_has_the_header() -> None:
    bench = Bench("inbound")
    bench.service.way = replace(bench.service.way, preface=preface)
    await bench.stands()
    await bench.pump()
    assert split(bytes(bench.up.received))[1] == b""


async def test_a_tunnel_that_a_reload_ends_while_it_dials_tells_nothing() -> None:
    bench = Bench("inbound")
    bench.service.way = replace(bench.service.way, preface=preface)
    await bench.pump()
    bench.stopped = True
    bench.tunnel.review(())
    bench.answer()
    await bench.settle()
    assert bench.up.received == b""


async def test_without_a_proven_caller_there_is_no_header() -> None:
    bench = await Bench("outbound").stands()
    with pytest.raises(RuntimeError):
        preface(bench.tunnel)
