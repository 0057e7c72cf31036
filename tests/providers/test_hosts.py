"""Which names of hosts are names, and which of them lead to the public internet."""

from __future__ import annotations

import pytest

from providers.hosts import LONGEST, SPECIAL, is_name, is_public_name

LABEL = "a" * 63

NAMES = (
    "example.com", "a.bc", "push.apple.com", "wns2-by3p.notify.windows.com", "_dmarc.example.com", "a_b.example.com",
    "xn--bcher-kva.example.com", "1.example.com", "127.0.0.1.example.com", f"{LABEL}.com", f"a.{LABEL}",
    ".".join([LABEL] * 3) + "." + "b" * (LONGEST - 3 * 64),
)  # fmt: skip

NO_NAMES = (
    "", "com", ".com", "example.com.", "example..com", "-a.com", "a-.com", "_.-.com", "a.-com", "a.com-", "a.1om",
    "a.b_c",
    "127.0.0.1", "1.2.3.0x4", "Example.com", "ex ample.com", "example.com\n", "exämple.com", f"a{LABEL}.com",
    f"a.a{LABEL}", ".".join([LABEL] * 3) + "." + "b" * (LONGEST - 3 * 64 + 1), "[::1]", "a.com:443", "a@b.com",
)  # fmt: skip


@pytest.mark.parametrize("host", NAMES)
def test_full_names_are_names(host: str) -> None:
    assert is_name(host)
    assert is_public_name(host)


@pytest.mark.parametrize("host", NO_NAMES)
def test_anything_else_is_none(host: str) -> None:
    assert not is_name(host)
    assert not is_public_name(host)


@pytest.mark.parametrize("top", sorted(SPECIAL))
def test_what_leads_nowhere_public_is_a_name_all_the_same(top: str) -> None:
    """An operator may allow a push service of the company by such a name, and a stranger may not."""
    assert is_name(f"push.{top}")
    assert not is_public_name(f"push.{top}")
    assert not is_public_name(f"a.b.{top}")
    assert is_public_name(f"{top}.com"), "only at the top"
    assert is_public_name(f"a.{top}x")
