"""Which addresses the name of a public service may lead to."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.policy.addresses import AddressCode, AddressError, check_address
from sidecar.policy.special_addresses import IPV4, IPV6, METADATA, Block

_LOW = 0xFFFFFFFF
UNICAST = ipaddress.IPv6Network("2000::/3")


def refusal(address: object) -> AddressCode | None:
    try:
        check_address(str(address))
    except AddressError as error:
        return error.code
    return None


def wrappings(inner: ipaddress.IPv4Address) -> dict[str, ipaddress.IPv6Address]:
    """Every IPv6 address that stands for, or leads to, an IPv4 one; beside it what is harmless: 8.8.8.8."""
    v4, other = int(inner), int(ipaddress.IPv4Address("8.8.8.8"))
    numbers = {
        "mapped": 0xFFFF << 32 | v4,
        "compatible": v4,
        "translated": 0xFFFF << 48 | v4,
        "nat64": 0x64FF9B << 96 | v4,
        "local nat64": 0x64FF9B0001 << 80 | v4,
        "6to4": 0x2002 << 112 | v4 << 80 | 1,
        "teredo server": 0x20010000 << 96 | v4 << 64 | (~other & _LOW),
        "teredo client": 0x20010000 << 96 | other << 64 | (~v4 & _LOW),
        "isatap": 0x2A00145040010000 << 64 | 0x00005EFE << 32 | v4,
        "isatap, global": 0x2A00145040010000 << 64 | 0x02005EFE << 32 | v4,
    }
    return {name: ipaddress.IPv6Address(number) for name, number in numbers.items()}


def test_ordinary_addresses_pass() -> None:
    for address in (
        "1.1.1.1",
        "8.8.8.8",
        "104.18.32.47",
        "160.79.104.10",
        "2606:4700::6812:202f",
        "2a00:1450:4001:82a::200e",
    ):
        check_address(address)


@pytest.mark.threat(27)
@pytest.mark.parametrize("block", [*IPV4, *IPV6], ids=lambda block: str(block.network))
def test_no_address_of_a_special_block_is_dialled(block: Block) -> None:
    first, last = block.network[0], block.network[-1]
    middle = block.network[block.network.num_addresses // 2]
    translates = str(block.network) in {"::ffff:0:0/96", "64:ff9b::/96"}
    for address in (first, last) if translates else (first, middle, last):
        assert refusal(address) is not None, address


#: What must be in the table, said once more, so that a row that is lost is noticed: IANA's registries and multicast, without
#: what lies within another row; and where clouds have their metadata.
REGISTRIES = """
0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.31.196.0/24
192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4
240.0.0.0/4 ::/128 ::1/128 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48
3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8
"""
CLOUDS = """
169.254.169.254 169.254.170.2 169.254.170.23 169.254.42.42 fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:42::42
100.100.100.200 192.0.0.192 168.63.129.16
"""


@pytest.mark.threat(26, 27)
@pytest.mark.parametrize("prefix", REGISTRIES.split())
def test_threats_26_27_every_block_of_the_registries_is_refused(prefix: str) -> None:
    network = ipaddress.ip_network(prefix)
    for address in (network[0], network[-1], network[network.num_addresses // 2]):
        assert refusal(address) is not None, address
    table = IPV4 if network.version == 4 else IPV6
    assert network in {block.network for block in table}, "refused for what it is, and not by chance"


@pytest.mark.threat(26)
def test_threat_26_the_metadata_services_are_those_that_are_known() -> None:
    assert {str(address) for address in METADATA} == set(CLOUDS.split())


@pytest.mark.parametrize("block", [*IPV4, *IPV6], ids=lambda block: str(block.network))
def test_the_neighbours_of_a_special_block_are_dialled_unless_they_are_special_too(block: Block) -> None:
    kind, table = (ipaddress.IPv4Address, IPV4) if block.network.version == 4 else (ipaddress.IPv6Address, IPV6)
    for number in (int(block.network[0]) - 1, int(block.network[-1]) + 1):
        if not 0 <= number < 1 << block.network.max_prefixlen:
            continue
        address = kind(number)
        inside = any(address in each.network for each in table)
        special = inside or (address.version == 6 and address not in UNICAST)
        assert (refusal(address) is not None) is special, address


@pytest.mark.threat(26)
@pytest.mark.parametrize("address", METADATA, ids=str)
def test_a_metadata_service_is_called_one(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert refusal(address) is AddressCode.METADATA


@pytest.mark.threat(26)
def test_a_metadata_service_is_found_in_every_wrapping() -> None:
    for name, wrapped in wrappings(ipaddress.IPv4Address("168.63.129.16")).items():
        known = {"translated": AddressCode.NOT_GLOBAL, "local nat64": AddressCode.SPECIAL}
        assert refusal(wrapped) is known.get(name, AddressCode.METADATA), name


@given(st.sampled_from(IPV4), st.data())
def test_every_wrapping_of_a_refused_address_is_refused(block: Block, data: st.DataObject) -> None:
    """No IPv4 address that is refused passes inside an IPv6 address, whatever the form."""
    inner = block.network[data.draw(st.integers(0, block.network.num_addresses - 1))]
    assert isinstance(inner, ipaddress.IPv4Address)
    for name, wrapped in wrappings(inner).items():
        assert refusal(wrapped) is not None, name


def test_translation_of_a_public_address_passes_and_tunnels_do_not() -> None:
    found = {name: refusal(wrapped) is None for name, wrapped in wrappings(ipaddress.IPv4Address("8.8.8.8")).items()}
    passing = {"mapped", "nat64", "isatap", "isatap, global"}
    assert found == {name: name in passing for name in found}


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
def test_what_python_calls_special_is_refused(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Nothing passes that Python's own table calls private, reserved, loopback, link-local or multicast."""
    odd = address.is_private or address.is_reserved or address.is_multicast or address.is_unspecified
    mapped = getattr(address, "ipv4_mapped", None)
    nat64 = address.version == 6 and int(address) >> 32 == 0x64FF9B << 64
    if mapped is None and not nat64 and (odd or address.is_loopback or address.is_link_local):
        assert refusal(address) is not None


@pytest.mark.parametrize("text", ["fe80::1%eth0", "2606:4700::1%1"])
def test_an_address_of_one_link_is_refused(text: str) -> None:
    assert refusal(text) is AddressCode.SCOPED


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "0177.0.0.1", "2130706433", "1.1.1.1 ", "::1]"])
def test_what_is_no_address_is_refused(text: str) -> None:
    assert refusal(text) is AddressCode.MALFORMED


def test_the_error_says_what_the_address_is_and_what_to_do() -> None:
    with pytest.raises(AddressError) as caught:
        check_address("2002:a9fe:a9fe::1")
    assert "169.254.169.254 (6to4), which is a metadata service" in str(caught.value)
    assert "unsafe_private_addresses" in caught.value.hint
