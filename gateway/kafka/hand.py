"""What of this machine's partitions is in hand: which record each batch is of, and how much of it was not told yet.

A record is done when nothing of its batches is left: their receipts are published, or their work is kept elsewhere.
That is also what ends them here; the store's feed says what to publish.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import apsw

from gateway.kafka import store
from gateway.kafka.outgoing import Outgoing, Standing
from gateway.kafka.progress import MARK, PROGRESS, WORK
from gateway.kafka.records import partition_of
from gateway.kafka.watermark import Watermark
from gateway.model import State
from gateway.queue.database import Database

PAUSE = 0.02
"""Seconds between looks at the feed while nothing is in it."""

LONG = 30.0
"""Seconds after which work that is not done leaves its record behind, so that one slow device pins no partition."""

_TERMINAL = bytes(state for state in State if state >= State.ACCEPTED)


class Record:
    """A record that was read."""

    __slots__ = ("at", "left", "offset", "watermark")

    def __init__(self, watermark: Watermark, offset: int, left: int) -> None:
        self.watermark = watermark
        self.offset = offset
        self.left = left
        self.at = time.monotonic()

    def less(self) -> None:
        """One of its batches is done, or kept elsewhere."""
        self.left -= 1
        if self.left <= 0:
            self.watermark.done(self.offset)


class Batch:
    """A batch that is not done."""

    __slots__ = ("kept", "left", "lone", "marked", "record")

    def __init__(
        self, record: Record | None, left: int, *, kept: bool = False, marked: bool = False, lone: bool = False
    ) -> None:
        self.record = record
        """Which it was read from; None for one that left its record behind."""
        self.left = left
        """Deliveries whose receipts are not published."""
        self.kept = kept
        """Whether the topic of progress tells how far it is."""
        self.marked = marked
        """Whether it may tell that it is in hand."""
        self.lone = lone
        """Whether its work is in the topic of progress."""

    @property
    def kinds(self) -> list[bytes]:
        """Of records that the topic of progress may have of it."""
        return [kind for kind, there in ((MARK, self.marked), (PROGRESS, self.kept), (WORK, self.lone)) if there]


class Hand:
    """Of one consumer."""

    def __init__(
        self, database: Database, outgoing: Outgoing, owns: Callable[[int], bool], may_tell: Callable[[], bool]
    ) -> None:
        """`owns` says of a partition whether it is ours, `may_tell` whether that is certain right now: what others may
        have told of by now is not told once more, and differently."""
        self._database = database
        self._outgoing = outgoing
        self._owns = owns
        self._may_tell = may_tell
        self._batches: dict[bytes, Batch] = {}
        # What is left of a batch is what the feed has beyond a cursor: nothing is counted while that moves.
        self._counting = asyncio.Lock()

    def clear(self) -> None:
        self._batches.clear()

    def told(self, batch_id: bytes) -> bool:
        """Whether the topic of progress may tell of it."""
        batch = self._batches.get(batch_id)
        return batch is not None and (batch.kept or batch.marked)

    def keep(self, batch_id: bytes) -> None:
        """The topic of progress tells of it by now."""
        if batch_id in self._batches:
            self._batches[batch_id].kept = True

    def take(self, batch_id: bytes, batch: Batch) -> None:
        """A batch that may be new here. One that is in hand already stays with its record, not this one."""
        if self._batches.setdefault(batch_id, batch) is not batch and batch.record is not None:
            batch.record.less()

    async def meet(self, batch_id: bytes, record: Record | None) -> None:
        """A batch that was taken with this record may have been here before: count what is left of it."""
        async with self._counting:
            here = self._batches.get(batch_id)
            left = await self._database.read(lambda db: _left(db, batch_id))
            if here is not None and here.record is record and left is not None:
                here.left = left
                if left <= 0:
                    self._end(batch_id)

    def _end(self, batch_id: bytes) -> None:
        batch = self._batches.pop(batch_id)
        if batch.record is not None:
            batch.record.less()

    # Receipts

    async def publish_for_ever(self) -> None:
        while True:
            if not await self._publish_some():
                await asyncio.sleep(PAUSE)

    async def publish_all(self) -> None:
        """All there is now."""
        while await self._publish_some():
            pass

    async def _publish_some(self) -> bool:
        """Publish what the store's feed has; whether there may be more."""
        async with self._counting:
            if not self._may_tell():
                return False
            fresh, verdicts = await self._database.read(store.untold)
            if fresh:
                await self._publish([row for row in fresh if self._owns(partition_of(row.ended.batch_id))])
                await self._database.write(lambda db: store.published(db, fresh[-1].revision))
        if verdicts:
            await self._outgoing.tell_dead(verdicts)
            await self._database.write(lambda db: store.told(db, verdicts[-1].revision))
        return len(fresh) == store.FEED_AT_ONCE

    async def _publish(self, rows: Sequence[store.Fresh]) -> None:
        batches = self._batches
        told: Counter[bytes] = Counter()
        for row in rows:
            told[row.ended.batch_id] += row.deliveries
        ends = {name for name, count in told.items() if name in batches and batches[name].left <= count}
        # How far they are before what of them is told: whoever takes over must not tell otherwise.
        parts = {row.ended.batch_id: row for row in rows}
        known = [row for name, row in parts.items() if name in batches and name not in ends]
        await self._outgoing.keep(
            [Standing(row.ended.batch_id, row.ended.columns, row.leased, row.attempt, 0) for row in known]
        )
        for row in known:
            self.keep(row.ended.batch_id)
        await self._outgoing.publish(rows, ends)
        await self._outgoing.forget([(name, batches[name].kinds) for name in ends])
        for name in told.keys() & batches.keys():
            batches[name].left -= told[name]
            if batches[name].left <= 0:
                self._end(name)

    # What waits for long

    async def move_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LONG / 6)
            await self.move(time.monotonic() - LONG)

    async def move(self, before: float) -> None:
        """Store the work of batches that were read before then anew, so that their records may be left behind."""
        by_record: defaultdict[Record, list[bytes]] = defaultdict(list)
        for batch_id, batch in self._batches.items():
            if batch.record is not None and batch.record.at < before:
                by_record[batch.record].append(batch_id)
        for record, batch_ids in by_record.items():
            for batch_id in await self._outgoing.move(batch_ids):
                here = self._batches.get(batch_id)
                if here is None or here.record is not record:
                    await self._outgoing.forget([(batch_id, (PROGRESS, WORK))])  # it ended meanwhile
                    continue
                here.record, here.kept, here.lone = None, True, True
                record.less()


def _left(db: apsw.Connection, batch_id: bytes) -> int | None:
    """Deliveries of a batch whose receipts are not published; None if it is not here."""
    found = store.standing(db, batch_id)
    if found is None:
        return None
    count, states = found
    ended = 0 if states is None else len(states) - len(states.translate(None, _TERMINAL))
    return count - ended + store.unpublished(db, batch_id)
