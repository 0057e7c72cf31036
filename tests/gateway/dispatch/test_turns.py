"""Turns at the processor, and the order of lanes under a flood."""

from __future__ import annotations

import asyncio

from gateway.dispatch.lanes import PATIENCE
from gateway.dispatch.turns import ROUND, SHORT_FOR, SHORT_ROUND, Turn, Turns
from gateway.model import Lane
from tests.gateway.dispatch.scripted import Bench, job, lease

LOOPS = ("virtual",)


async def test_the_largest_weight_has_a_whole_round() -> None:
    """Others have their part of it."""
    turns = Turns({"shop": 2.0, "bank": 1.0})
    assert (turns["shop"].left, turns["bank"].left) == (ROUND, ROUND / 2)


async def test_rounds_are_short_while_one_time_codes_come() -> None:
    """From the next round on, and for a while after the last of them."""
    turns = Turns({"shop": 1.0})
    lengths = []
    turns.hasten()
    for seconds in (0.0, SHORT_FOR - 0.01, 0.02):
        await asyncio.sleep(seconds)
        turns["shop"].spend(1.0)
        await asyncio.sleep(0)
        lengths.append(turns["shop"].left)
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
    assert (turn.left, woken) == (0, 0)
    await asyncio.sleep(0)
    assert (turn.left, woken) == (10, 1)
    turn.spend(3)
    await asyncio.sleep(0)
    assert (turn.left, woken) == (10, 1)


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


async def test_a_flood_of_transactional_work_leaves_campaigns_a_part() -> None:
    """A slice of a campaign goes after so many transactional deliveries, and then those are first again."""
    bench = Bench()
    bench.add(1000)
    for _ in range(2 * PATIENCE // 1000 + 2):
        bench.add(1000, of=lease(1000, job(lane=Lane.TRANSACTIONAL)))
    lanes = [bench.taken(streams=250).tags[0][0].job.lane for _ in range(2 * (PATIENCE // 250 + 1))]
    round_ = [Lane.TRANSACTIONAL] * (PATIENCE // 250) + [Lane.PROMOTIONAL]
    assert lanes == 2 * round_


async def test_without_a_campaign_no_patience_is_used_up() -> None:
    """A campaign that comes behind a flood waits its time from its own arrival on."""
    bench = Bench()
    for _ in range(PATIENCE // 1000 + 1):
        bench.add(1000, of=lease(1000, job(lane=Lane.TRANSACTIONAL)))
    for _ in range(PATIENCE // 250):
        bench.taken(streams=250)
    bench.add(1000)
    assert bench.taken(streams=250).tags[0][0].job.lane is Lane.TRANSACTIONAL
