"""The filter of dead targets never misses one and is seldom wrong about the living; the table knows the latest word."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Route
from gateway.queue import dead as rules
from gateway.queue.base import DeadTarget
from gateway.queue.dead import DeadFilter, count_dead, dead_since, known_dead, remember_dead
from gateway.queue.sqlite import SqliteQueue
from tests.gateway.queue.samples import APNS, FCM, batch, stored


@given(st.lists(st.binary(max_size=80)))
def test_never_misses(keys: list[bytes]) -> None:
    """Whatever was added is a candidate."""
    dead = DeadFilter(len(keys))
    dead.add(keys)
    assert dead.candidates(keys) == keys


def test_seldom_wrong() -> None:
    """At the size where a larger one is due, fewer than one in five hundred living targets is looked up in vain."""
    dead = DeadFilter()
    number = 0
    while not dead.crowded:
        dead.add([b"dead-%d" % number])
        number += 1
        assert number < 20_000, "it is never crowded"
    living = [b"living-%d" % number for number in range(20_000)]
    assert len(dead.candidates(living)) < 40
    assert not DeadFilter(number).crowded


def test_it_is_crowded_by_more_than_a_key_in_eight_slots() -> None:
    """The smallest has 65,536; one that expects more than a sixteenth of that starts with the next size."""
    smallest, next_size = DeadFilter(4096), DeadFilter(4097)
    for dead in (smallest, next_size):
        dead.add([b"%d" % number for number in range(8192)])
        assert not dead.crowded
        dead.add([b"one more"])
    assert smallest.crowded
    assert not next_size.crowded
    next_size.add([b"%d" % number for number in range(8191)])
    assert not next_size.crowded
    next_size.add([b"one more"])
    assert next_size.crowded


def test_the_largest_is_never_crowded(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none to replace it by, and it grows no further whatever it expects."""
    monkeypatch.setattr(rules, "_LARGEST", rules._SMALLEST * 4)
    largest, below = DeadFilter(10**9), DeadFilter(8192)
    keys = [b"%d" % number for number in range(20_000)]
    for dead in (largest, below):
        dead.add(keys)
    assert not largest.crowded
    assert below.crowded
    largest.add(b"more-%d" % number for number in range(80_000))
    assert not largest.crowded
    assert largest.candidates(keys) == keys


def test_most_of_what_it_is_asked_is_answered_by_one_slot() -> None:
    """And of the rest most by the second: with half the room in use, hardly one in two hundred is taken for dead."""
    dead = DeadFilter(4096)
    dead.add(b"dead-%d" % number for number in range(4096))
    living = [b"living-%d" % number for number in range(50_000)]
    assert len(dead.candidates(living)) < 50_000 / 2000


class TestTable:
    """What services said, by app and provider."""

    @staticmethod
    async def remember(queue: SqliteQueue, sequence: int, *dead: DeadTarget) -> None:
        await queue.database.write(lambda db: remember_dead(db, sequence, dead))

    @staticmethod
    async def known(queue: SqliteQueue, route: Route, keys: Sequence[bytes]) -> dict[bytes, DeadTarget]:
        return await queue.database.read(lambda db: known_dead(db, route, keys))

    @staticmethod
    async def since(queue: SqliteQueue, after: int, limit: int = 100) -> list[tuple[int, bytes]]:
        return await queue.database.read(lambda db: dead_since(db, after, limit))

    async def test_a_target_is_dead_for_its_app_and_provider_alone(self, queue: SqliteQueue) -> None:
        await stored(queue, batch(), batch(1, FCM))
        await stored(queue, batch(1, Route("bank", "apns")), app="bank")
        one, other = DeadTarget(b"one", 10.0, "gone"), DeadTarget(b"other", 20.0, "left")
        await self.remember(queue, 1, one, other)
        await self.remember(queue, 2, DeadTarget(b"one", 30.0, "else"))
        assert await self.known(queue, APNS, [b"one", b"other", b"third"]) == {b"one": one, b"other": other}
        assert await self.known(queue, FCM, [b"one", b"other"]) == {b"one": DeadTarget(b"one", 30.0, "else")}
        assert await self.known(queue, Route("bank", "apns"), [b"one", b"other"]) == {}
        assert await self.known(queue, APNS, []) == {}
        assert await queue.database.read(count_dead) == 3

    async def test_the_latest_word_counts_and_is_told_anew(self, queue: SqliteQueue) -> None:
        await stored(queue, batch())
        await self.remember(queue, 1, DeadTarget(b"one", 10.0, "first"), DeadTarget(b"two", 10.0, "first"))
        before = await self.since(queue, 0)
        assert [key for _, key in before] == [b"one", b"two"]
        await self.remember(queue, 1, DeadTarget(b"one", 9.0, "older"), DeadTarget(b"one", 10.0, "same"))
        assert await self.known(queue, APNS, [b"one"]) == {b"one": DeadTarget(b"one", 10.0, "first")}
        assert await self.since(queue, 0) == before
        await self.remember(queue, 1, DeadTarget(b"one", 11.0, "newer"))
        assert await self.known(queue, APNS, [b"one"]) == {b"one": DeadTarget(b"one", 11.0, "newer")}
        assert [key for _, key in await self.since(queue, 0)] == [b"two", b"one"]
        assert [key for _, key in await self.since(queue, before[-1][0])] == [b"one"]
        assert await queue.database.read(count_dead) == 2

    async def test_the_feed_is_read_piece_by_piece(self, queue: SqliteQueue) -> None:
        await stored(queue, batch())
        await self.remember(queue, 1, *(DeadTarget(b"%d" % number, 1.0, "gone") for number in range(10)))
        cursor, seen = 0, []
        while piece := await self.since(queue, cursor, 3):
            assert len(piece) <= 3
            assert len(seen) < 10
            cursor = piece[-1][0]
            seen += [key for _, key in piece]
        assert seen == [b"%d" % number for number in range(10)]

    async def test_nothing_said_is_nothing_done(self, queue: SqliteQueue) -> None:
        """Not even the batch is looked for, which may be gone."""
        await self.remember(queue, 999)
        assert await queue.database.read(count_dead) == 0
