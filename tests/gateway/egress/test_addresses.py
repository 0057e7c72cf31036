"""Which addresses are public, whatever they are dressed up as."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.egress import addresses
from gateway.egress.addresses import is_public

PUBLIC = (
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "17.188.0.1", "100.63.255.255", "100.128.0.0",
    "126.255.255.255", "128.0.0.0", "142.250.1.95", "168.63.129.15", "168.63.129.17", "169.253.255.255",
    "169.255.0.0", "172.15.255.255", "172.32.0.0", "191.255.255.255", "192.0.1.0", "192.0.3.0", "192.31.195.255",
    "192.31.197.0", "192.52.192.255", "192.52.194.0", "192.88.98.255", "192.88.100.0", "192.167.255.255",
    "192.169.0.0", "192.175.47.255", "192.175.49.0", "198.17.255.255", "198.20.0.0", "198.51.99.255",
    "198.51.101.0", "203.0.112.255", "203.0.114.0", "223.255.255.255", "2000::",
    "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:200::", "2001:db7:ffff::", "2001:db9::",
    "2001:4860:4860::8888", "2003::", "2606:4700::1111", "2620:4f:7fff:ffff::", "2620:4f:8001::",
    "2a00:1450:4001::200a", "3ffe:ffff::", "3fff:1000::", "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "64:ff9b::8.8.8.8", "::ffff:8.8.8.8",
)  # fmt: skip

NOT_PUBLIC = (
    "0.0.0.0", "0.0.0.1", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.100.100.200",
    "100.127.255.255", "127.0.0.0", "127.0.0.1", "127.1.2.3", "127.255.255.255", "168.63.129.16", "169.254.0.0",
    "169.254.169.254", "169.254.170.2", "169.254.255.255", "172.16.0.0", "172.17.0.1", "172.31.255.255",
    "192.0.0.0", "192.0.0.9", "192.0.0.10", "192.0.0.170", "192.0.0.255", "192.0.2.0", "192.0.2.255",
    "192.31.196.0", "192.31.196.255", "192.52.193.0", "192.52.193.255", "192.88.99.0", "192.88.99.255",
    "192.168.0.0", "192.168.255.255", "192.175.48.0", "192.175.48.255", "198.18.0.0", "198.19.255.255",
    "198.51.100.0", "198.51.100.255", "203.0.113.0", "203.0.113.255", "224.0.0.0", "224.0.0.1", "239.255.255.255",
    "240.0.0.0", "254.0.0.1", "255.255.255.255", "::", "::1", "::2", "::127.0.0.1", "::8.8.8.8", "::ffff:0.0.0.0",
    "::ffff:10.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:224.0.0.1", "::ffff:0:127.0.0.1",
    "64:ff9b::", "64:ff9b::127.0.0.1", "64:ff9b::10.1.2.3", "64:ff9b::169.254.169.254", "64:ff9b::224.0.0.1",
    "64:ff9b::1:8.8.8.8", "64:ff9a::8.8.8.8", "64:ff9b:1::", "64:ff9b:1::8.8.8.8", "100::", "100::1", "100:0:0:1::",
    "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001::", "2001::7f00:1", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:1::1", "2001:2::", "2001:3::", "2001:4:112::", "2001:10::", "2001:20::", "2001:30::", "2001:1ff:ffff::",
    "2001:db8::", "2001:db8:ffff::", "2002::", "2002:7f00:1::", "2002:a00:1::", "2002:808:808::",
    "2002:ffff:ffff::", "2620:4f:8000::", "2620:4f:8000:ffff::", "3fff::", "3fff:fff::", "4000::", "5f00::",
    "5f00::1", "8000::1", "fc00::", "fd00:ec2::254", "fd20:ce::254", "fdff::1", "fe80::", "fe80::1", "febf::1",
    "fec0::1", "feff::1", "ff00::", "ff02::1", "ff0e::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fe80::1%eth0",
    "fe80::1%1", "2001:4860:4860::8888%eth0", "::1%lo", "::ffff:8.8.8.8%1",
)  # fmt: skip

NO_ADDRESS = (
    "", " ", "8.8.8.8 ", " 8.8.8.8", "8.8.8.8\n", "8.8.8", "8.8", "8", "134744072", "0x08080808", "010.8.8.8",
    "08.8.8.8", "0x8.8.8.8", "8.8.8.8.", "8.8.8.8:443", "8.8.8.8/32", "[2606:4700::1111]", "2606:4700::1111::",
    "localhost", "example.com", "８.8.8.8", "8。8。8。8", "٨.8.8.8",
    "::ffff:8.8.8", "2606:4700::g", "1.1.1.256", "1.1.1.-1",
)  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_hosts_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_what_has_a_special_purpose_is_not(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("text", NO_ADDRESS)
def test_what_is_not_written_as_an_address_is_none(text: str) -> None:
    """Python and the C library read some of these as numbers; sockets and resolvers never say them."""
    assert not is_public(text)


ipv4 = st.integers(0, 2**32 - 1).map(IPv4Address)
special4 = st.sampled_from(
    [
        IPv4Network(n)
        for n in ("0.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16", "224.0.0.0/3")
    ]
).flatmap(lambda n: st.integers(int(n[0]), int(n[-1])).map(IPv4Address))


@given(ipv4 | special4)
def test_an_address_that_carries_another_is_worth_what_that_is(inner: IPv4Address) -> None:
    """Mapped (RFC 4291, section 2.5.5.2) and translated (RFC 6052): both are connected to as the IPv4 address."""
    expected = is_public(str(inner))
    assert is_public(str(IPv6Address(0xFFFF << 32 | int(inner)))) is expected
    assert is_public(str(IPv6Address(0x64FF9B << 96 | int(inner)))) is expected


@given(ipv4 | special4, st.integers(0, 2**80 - 1), st.integers(0, 2**16 - 1))
def test_no_other_dress_is_taken_off(inner: IPv4Address, rest: int, flags: int) -> None:
    """Compatible, 6to4, Teredo, local NAT64, translated by SIIT: whatever is inside, nobody serves from there."""
    value = int(inner)
    for dressed in (
        value,
        0x2002 << 112 | value << 80 | rest,
        0x2001 << 112 | value << 64 | flags << 48 | (value ^ 0xFFFFFFFF),
        0x64FF9B0001 << 80 | value,
        0xFFFF << 48 | value,
    ):
        assert not is_public(str(IPv6Address(dressed))), IPv6Address(dressed)


@given(st.integers(0, 2**128 - 1).map(IPv6Address))
def test_of_ipv6_only_global_unicast_is_public(address: IPv6Address) -> None:
    in_use = address in IPv6Network("2000::/3")
    carries = address in IPv6Network("64:ff9b::/96") or address in IPv6Network("::ffff:0:0/96")
    assert in_use or carries or not is_public(str(address))


@given(ipv4 | special4)
def test_nothing_that_python_calls_private_is_public(address: IPv4Address) -> None:
    """The other way round does not hold, which is why there is a table."""
    if (
        address.is_private
        or address.is_multicast
        or address.is_reserved
        or address.is_loopback
        or address.is_link_local
    ):
        assert not is_public(str(address))


@given(
    st.integers(0, 2**128 - 1).map(IPv6Address)
    | st.sampled_from([text for text in PUBLIC if ":" in text]).map(IPv6Address)
)
def test_nothing_that_python_calls_private_is_public_in_ipv6(address: IPv6Address) -> None:
    if address.ipv4_mapped is None and (address.is_private or address.is_multicast or address.is_site_local):
        assert not is_public(str(address))


@given(ipv4)
def test_it_is_the_same_in_all_notations_a_socket_gives(address: IPv4Address) -> None:
    mapped = socket.inet_ntop(socket.AF_INET6, IPv6Address(0xFFFF << 32 | int(address)).packed)
    assert is_public(mapped) is is_public(str(address))
    assert is_public(mapped.upper()) is is_public(mapped)


@pytest.mark.parametrize("row", [*addresses._NOT_PUBLIC_4, *addresses._NOT_PUBLIC_6], ids=str)
def test_every_row_of_the_table_is_needed(row: IPv4Network | IPv6Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it an address that has to be refused would be public."""
    for table in ("_NOT_PUBLIC_4", "_NOT_PUBLIC_6"):
        rest = tuple(other for other in getattr(addresses, table) if other != row)
        monkeypatch.setattr(addresses, table, rest)
    assert any(is_public(address) for address in NOT_PUBLIC)
