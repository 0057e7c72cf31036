"""Positions in lists that all tenants share, as a caller is given them.

The queue numbers what it stores for everybody together, so the difference of two positions says how much the others had
done meanwhile. A caller gets them through a permutation of its tenant's own, which only this installation can undo.
"""

from __future__ import annotations

import hashlib

LEFT, RIGHT = 29, 30
"""Bits of the halves; together less than 18 decimal digits."""
ROUNDS = 4

_LEFT, _RIGHT = (1 << LEFT) - 1, (1 << RIGHT) - 1
_SIZE = 1 << LEFT + RIGHT


class Cursors:
    """A Feistel network of four rounds, keyed by the installation's secret and the tenant. 0, the start, stays 0.

    Args:
        secret: at least 16 bytes, the same for all processes and for ever.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def write(self, tenant: str, position: int) -> str:
        """What a caller is given for a position."""
        if not position:
            return "0"
        left, right = position >> RIGHT, position & _RIGHT
        for number in range(ROUNDS):
            if number % 2:
                right ^= self._mix(tenant, number, left) & _RIGHT
            else:
                left ^= self._mix(tenant, number, right) & _LEFT
        return str(left << RIGHT | right)

    def read(self, tenant: str, cursor: int) -> int:
        """The position behind what a caller gave back. Of one that nobody was given, any position."""
        if not 0 < cursor < _SIZE:
            return 0
        left, right = cursor >> RIGHT, cursor & _RIGHT
        for number in reversed(range(ROUNDS)):
            if number % 2:
                right ^= self._mix(tenant, number, left) & _RIGHT
            else:
                left ^= self._mix(tenant, number, right) & _LEFT
        return left << RIGHT | right

    def _mix(self, tenant: str, number: int, half: int) -> int:
        said = b"%d %d %s" % (number, half, tenant.encode())
        return int.from_bytes(hashlib.blake2b(said, key=self._secret, digest_size=8).digest(), "big")
