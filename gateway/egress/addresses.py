"""Which addresses are public: a table of our own, because `ipaddress.is_global` takes loopback for public in disguise.

On Python 3.11 it is True for 64:ff9b::7f00:1, ::127.0.0.1, 2002:7f00:1::, fec0::1 and 224.0.0.1, among others, and what
it says changes from release to release. Here the rule is turned round for IPv6: only what IANA has given out as global
unicast is public, less the parts with a special purpose, so whatever is defined next is refused until it is listed.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_NOT_PUBLIC_4 = tuple(
    map(
        IPv4Network,
        (
            # iana-ipv4-special-registry, whole: also what is globally reachable in it belongs to no push service
            "0.0.0.0/8",  # this network (RFC 791); Linux takes 0.0.0.0 for itself
            "10.0.0.0/8",  # private (RFC 1918)
            "100.64.0.0/10",  # behind a carrier's NAT (RFC 6598), and some clouds' metadata
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local (RFC 3927), and most clouds' metadata
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments (RFC 6890)
            "192.0.2.0/24",  # documentation (RFC 5737)
            "192.31.196.0/24",  # AS112 (RFC 7535)
            "192.52.193.0/24",  # AMT (RFC 7450)
            "192.88.99.0/24",  # relays of 6to4 (RFC 7526)
            "192.168.0.0/16",  # private
            "192.175.48.0/24",  # AS112 (RFC 7534)
            "198.18.0.0/15",  # benchmarks (RFC 2544)
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast (RFC 5771)
            "240.0.0.0/4",  # reserved (RFC 1112), and the broadcast address
            "168.63.129.16/32",  # in no registry: what a machine in Azure asks for its secrets
        ),
    )
)

_GLOBAL_UNICAST_6 = IPv6Network("2000::/3")
"""All that has been given out (iana-ipv6-address-space). Outside of it are loopback, IPv4 in its "compatible" form,
the local NAT64 prefix 64:ff9b:1::/48, unique local, link-local, the old site-local, SRv6 and multicast."""

_NOT_PUBLIC_6 = tuple(
    map(
        IPv6Network,
        (
            # iana-ipv6-special-registry, as far as it is in 2000::/3
            "2001::/23",  # protocol assignments (RFC 2928), Teredo among them, which has IPv4 in it
            "2001:db8::/32",  # documentation (RFC 3849)
            "2002::/16",  # 6to4 (RFC 7526: gone), which has IPv4 in it
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation (RFC 9637)
        ),
    )
)

_NAT64 = IPv6Network("64:ff9b::/96")
"""RFC 6052: how a machine without IPv4 reaches services that have nothing else; the last 32 bits are the address."""


def is_public(address: str) -> bool:
    """Whether an address, as a resolver or a socket gives it, is that of a host on the public internet.

    False for whatever is not written as one: names, other notations of numbers, and addresses with a scope.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address):
        if parsed.scope_id is not None:
            return False
        embedded = parsed.ipv4_mapped or (IPv4Address(int(parsed) & 0xFFFFFFFF) if parsed in _NAT64 else None)
        if embedded is None:
            return parsed in _GLOBAL_UNICAST_6 and not any(parsed in network for network in _NOT_PUBLIC_6)
        parsed = embedded
    return not any(parsed in network for network in _NOT_PUBLIC_4)
