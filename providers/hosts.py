"""Names of hosts that strangers write down."""

from __future__ import annotations

import re

SPECIAL = frozenset({
    "localhost", "local", "internal", "invalid", "test", "example", "onion", "alt", "arpa",
    "localdomain", "lan", "home", "corp", "intranet", "private", "svc",
})  # fmt: skip
"""Top-level names that lead, with all that is below them, to no host of the public internet: by definition (RFC 2606,
6761, 6762, 7686, 8375, 9476, and ICANN's `internal`), and such as networks of companies and clusters use."""

LONGEST = 253

# A last label that starts with a letter is no part of an IP address in any notation.
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)+([a-z](?:[a-z0-9-]{0,61}[a-z0-9])?)")


def is_name(host: str) -> bool:
    """Whether a text in lower case is a host's full name: labels of ASCII with dots between them, no address."""
    return len(host) <= LONGEST and _NAME.fullmatch(host) is not None


def is_public_name(host: str) -> bool:
    """Whether it is such a name, and none that leads nowhere public whatever a resolver says."""
    match = _NAME.fullmatch(host) if len(host) <= LONGEST else None
    return match is not None and match[1] not in SPECIAL
