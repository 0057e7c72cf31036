"""Turns at the processor, and the order of lanes under a flood."""

from __future__ import annotations

import asyncio

import pytest

from gateway.dispatch.lanes import PATIENCE
from gateway.dispatch.turns import LEAST, ROUND, SHORT_FOR, SHORT_ROUND, Turn, Turns
from gateway.model import Lane
from tests.gateway.dispatch.scripted import Bench, job, lease

LOOPS = ("virtual",)


async def test_the_largest_weight_has_a_whole_round() -> None:
    """Others have their part of it, but nobody less than is worth a slice."""
    turns = Turns({"shop": 2.0, "bank": 1.0, "tiny": 0.01})
    assert [turns[app].room for app in ("shop", "bank", "tiny")] == [ROUND, ROUND / 2, LEAST]


async def test_rounds_are_short_while_one_time_codes_come() -> None:
    """From the next round on, and for a while after the last of them."""
    turns = Turns({"shop": 1.0})
    lengths = []
    turns.hasten()
    for seconds in (0.0, SHORT_FOR - 0.01, 0.02):
        await asyncio.sleep(seconds)
        turns["shop"].spend(turns["shop"].room)
        await asyncio.sleep(0)
        lengths.append(turns["shop"].room)
    assert lengths == [SHORT_ROUND, SHORT_ROUND, ROUND]


async def test_what_is_spent_is_back_with_the_next_round() -> None:
    """And whoever waited for it is woken, once."""
    turn, woken = Turn(lambda: 10.0), 0

    def wake() -> None:
        nonlocal woken
        woken += 1

    turn.spend(10)
    turn.wait(wake)
    turn.wait(wake)
    assert (turn.room, woken) == (0, 0)
    await asyncio.sleep(0)
    assert (turn.room, woken) == (10, 1)
    turn.spend(3)
    await asyncio.sleep(0)
    assert (turn.room, woken) == (10, 1)


async def test_no_slice_is_cut_to_next_to_nothing() -> None:
    """What is more than was left is taken off the next round, so that the shares hold."""
    turn = Turn(lambda: 2.0)
    turn.spend(1.9)
    assert turn.room == LEAST
    turn.spend(LEAST)
    assert turn.room == 0
    await asyncio.sleep(0)
    assert turn.room == pytest.approx(2.0 - (LEAST - 0.1))
    turn.spend(0.1)
    await asyncio.sleep(0)
    assert turn.room == 2.0


async def test_who_took_more_than_a_round_waits_for_one_with_room() -> None:
    turn, rounds = Turn(lambda: 0.2), []
    turn.spend(0.5)
    turn.wait(lambda: rounds.append(turn.room))
    await asyncio.sleep(0)
    assert (turn.room, rounds) == (0, [])
    await asyncio.sleep(0)
    assert rounds == [LEAST]


async def test_a_sender_takes_no_more_in_a_round_than_its_apps_turn() -> None:
    """Then its pool is woken, and it goes on."""
    bench = Bench(turn=Turn(lambda: 0.6))
    bench.add(400)
    assert len(bench.taken().tags) == 100
    assert len(bench.taken().tags) == 50
    assert bench.take() is None
    assert bench.pool.wakes == 0
    await asyncio.sleep(0)
    assert bench.pool.wakes == 1
    assert len(bench.taken().tags) == 100


@pytest.mark.parametrize("size", [12, 250, 500])
async def test_a_flood_of_transactional_work_leaves_campaigns_a_part(size: int) -> None:
    """One of so many deliveries, however large a provider's slices are."""
    bench = Bench(turn=Turn(lambda: 1e9))
    bench.plan.slice = size
    bench.add(1000)
    for _ in range(10):
        bench.add(1000, of=lease(1000, job(lane=Lane.TRANSACTIONAL)))
    round_ = [Lane.TRANSACTIONAL] * PATIENCE + [Lane.PROMOTIONAL]
    slices = min(2 * len(round_), 8000 // size)
    lanes = [bench.taken(streams=size).tags[0][0].job.lane for _ in range(slices)]
    assert lanes == (2 * round_)[:slices]


async def test_without_a_campaign_no_patience_is_used_up() -> None:
    """A campaign that comes behind a flood waits its time from its own arrival on."""
    bench = Bench(turn=Turn(lambda: 1e9))
    for _ in range(5):
        bench.add(1000, of=lease(1000, job(lane=Lane.TRANSACTIONAL)))
    for _ in range(PATIENCE):
        bench.taken(streams=250)
    bench.add(1000)
    assert bench.taken(streams=250).tags[0][0].job.lane is Lane.TRANSACTIONAL
