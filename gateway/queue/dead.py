"""Which targets are known to be dead, asked for every delivery and nearly always answered "none"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import apsw

from gateway.model import Route
from gateway.queue.base import DeadTarget
from gateway.queue.rows import every, first, only

_SLOTS_PER_KEY = 8
"""At most as crowded as this; a filter starts with twice as many."""

_SMALLEST = 1 << 16
_LARGEST = 1 << 26
"""64 MiB, enough for eight million dead targets; beyond, more of the living ones need a look at the table."""

_ADD = "INSERT INTO dead_targets (app, provider, key, since, reason) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
"""Nearly always enough, and 3 us where `_REPLACE` takes 7."""

_REPLACE = (
    "INSERT OR REPLACE INTO dead_targets (app, provider, key, since, reason) SELECT ?1, ?2, ?3, ?4, ?5 "
    "WHERE NOT EXISTS (SELECT 1 FROM dead_targets WHERE app = ?1 AND provider = ?2 AND key = ?3 AND since >= ?4)"
)
"""A replaced row gets a new revision, so that the feed tells the newer word too."""


class DeadFilter:
    """A Bloom filter of one byte a slot: two slots by parts of a key's hash, one bit in each by others.

    At its most crowded, one of a thousand keys that were never added is taken for dead; then the table is asked.
    Python's `hash` is the fastest there is here, and different in each process, which is fine for a filter of its own.
    """

    def __init__(self, expected: int = 0) -> None:
        size = _SMALLEST
        while size < 2 * expected * _SLOTS_PER_KEY and size < _LARGEST:
            size *= 2
        self._slots = bytearray(size)
        self._count = 0

    @property
    def crowded(self) -> bool:
        """Whether a larger one should be built from the table."""
        return self._count * _SLOTS_PER_KEY > len(self._slots) < _LARGEST

    def add(self, keys: Iterable[bytes]) -> None:
        slots, mask = self._slots, len(self._slots) - 1
        for key in keys:
            code = hash(key)
            slots[code & mask] |= 1 << (code >> 27 & 7)
            slots[code >> 33 & mask] |= 1 << (code >> 30 & 7)
            self._count += 1

    def candidates(self, keys: Sequence[bytes]) -> list[bytes]:
        """Keys that may have been added; all that were are among them."""
        slots, mask = self._slots, len(self._slots) - 1
        hits = [key for key in keys if slots[hash(key) & mask]]  # 0.1 us a key; 0.25 beyond the CPU's cache
        return [
            key
            for key in hits
            if slots[(code := hash(key)) & mask] >> (code >> 27 & 7) & slots[code >> 33 & mask] >> (code >> 30 & 7) & 1
        ]


def remember_dead(db: apsw.Connection, sequence: int, dead: Sequence[DeadTarget]) -> None:
    """Keep what a service said of targets of this batch's app and provider; the latest word counts."""
    if not dead:
        return
    app, provider = only(
        db,
        "SELECT app, provider FROM routes WHERE number = (SELECT route FROM batches WHERE sequence = ?)",
        (sequence,),
    )
    for target in dead:
        row = (app, provider, target.key, target.since, target.reason)
        db.execute(_ADD, row)
        if not db.changes():
            db.execute(_REPLACE, row)


def known_dead(db: apsw.Connection, route: Route, keys: Iterable[bytes]) -> dict[bytes, DeadTarget]:
    sql = "SELECT since, reason FROM dead_targets WHERE app = ? AND provider = ? AND key = ?"
    found = {key: first(db, sql, (route.app, route.provider, key)) for key in keys}
    return {key: DeadTarget(key, *row) for key, row in found.items() if row is not None}


def count_dead(db: apsw.Connection) -> int:
    (count,) = only(db, "SELECT count(*) FROM dead_targets")
    return int(count)


def dead_since(db: apsw.Connection, after: int, limit: int) -> list[tuple[int, bytes]]:
    """Revisions and keys, in the order of writing."""
    sql = "SELECT revision, key FROM dead_targets WHERE revision > ? ORDER BY revision LIMIT ?"
    return every(db, sql, (after, limit))
