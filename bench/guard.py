"""This working tree against another commit, in pairs: fails when it costs clearly more.

In each block both are started anew and run side by side on one processor, loaded in turns A B B A (B A A B in every
second block), so that whatever drifts during a block weighs on both alike; the block gives one ratio. Over the blocks'
ratios stands the sign test's interval of the median, which assumes nothing about how the noise is distributed and lets
single disturbed blocks be disturbed. Only when the whole interval is above the allowance is it a regression.
"""

from __future__ import annotations

import asyncio
import io
import math
import statistics
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

from bench import instructions, report
from bench.repository import git
from bench.stage import Stage, stage
from bench.throughput import Scenario, world

ALLOWANCE = 0.05
CONFIDENCE = 0.95
FEWEST_BLOCKS = 6
"""With fewer not even the whole range of the ratios is an interval of 95 %."""
ORDERS = ("ABBA", "BAAB")


class Interval(NamedTuple):
    """Where the median is, with how much confidence."""

    low: float
    high: float
    confidence: float


def run(against: str, provider: str, count: int, blocks: int) -> dict[str, Any]:
    """Run it and return the report; not clean if this tree is slower or a ledger is wrong.

    Raises:
        ProcessFailed: there is no such commit, or it does not run.
    """
    commit = git("rev-parse", "--verify", f"{against}^{{commit}}").decode().strip()
    counts = instructions.available()
    with tempfile.TemporaryDirectory(prefix="carillon-guard-") as folder:
        with tarfile.open(fileobj=io.BytesIO(git("archive", commit, "gateway", "providers"))) as tree:
            tree.extractall(folder, filter="data")
        scenario = Scenario(provider=provider, count=count)
        measured = [asyncio.run(_block(scenario, Path(folder), ORDERS[number % 2], counts)) for number in range(blocks)]
    return _report(commit, scenario, measured, counts)


class _Cost(NamedTuple):
    cpu_us: float
    instructions: float


class _Block(NamedTuple):
    ours: _Cost
    theirs: _Cost
    clean: bool


async def _block(scenario: Scenario, code: Path, order: str, counts: bool) -> _Block:
    async with AsyncExitStack() as stack:
        stages = {}
        for name, root in (("A", None), ("B", code)):
            running = stack.enter_context(world(scenario, code=root))
            stages[name] = await stack.enter_async_context(stage(running, scenario.provider))
        jobs = {name: await on.warm_up(scenario.count) for name, on in stages.items()}
        costs: dict[str, list[_Cost]] = {"A": [], "B": []}
        for name in order:
            cost, more = await _measure(stages[name], scenario.count, counts)
            costs[name].append(cost)
            jobs[name] += more
        clean = [await _clean(on, jobs[name]) for name, on in stages.items()]
    return _Block(_mean(costs["A"]), _mean(costs["B"]), all(clean))


async def _measure(on: Stage, count: int, counts: bool) -> tuple[_Cost, list[str]]:
    prepared = on.recipients(count)
    counting = instructions.Counting(on.world.gateway.family()) if counts else None
    measured = await on.measure(prepared)
    executed = (counting.stop() if counting else None) or 0.0
    return _Cost(measured.gateway_cpu_us, executed / count), measured.jobs


async def _clean(on: Stage, jobs: list[str]) -> bool:
    await on.enter_receipts(jobs)
    on.world.enter_taken(on.ledger)
    return on.ledger.balance().clean


def _mean(costs: Sequence[_Cost]) -> _Cost:
    return _Cost(*(sum(column) / len(costs) for column in zip(*costs, strict=True)))


def interval(ratios: Sequence[float]) -> Interval:
    """The narrowest interval between two of the ratios, as far from either end, that holds the median (sign test).

    The median lies below the k-th smallest of n with the probability that a coin thrown n times shows heads less than
    k times.
    """
    ordered, n = sorted(ratios), len(ratios)
    rank = 0
    outside = 2 / 2**n
    while True:
        wider = outside + 2 * math.comb(n, rank + 1) / 2**n
        if wider > 1 - CONFIDENCE or rank + 1 >= n // 2:
            return Interval(ordered[rank], ordered[n - 1 - rank], 1 - outside)
        rank, outside = rank + 1, wider


def compared(ratios: Sequence[float]) -> dict[str, Any]:
    """What the blocks' ratios, ours to theirs, say together."""
    found = interval(ratios)
    return {
        "ratio": round(statistics.median(ratios), 4),
        "interval": [round(found.low, 4), round(found.high, 4)],
        "confidence": round(found.confidence, 4),
        "regressed": found.low > 1 + ALLOWANCE,
        "blocks": [round(ratio, 4) for ratio in ratios],
    }


def _report(commit: str, scenario: Scenario, measured: Sequence[_Block], counts: bool) -> dict[str, Any]:
    cpu = compared([block.ours.cpu_us / block.theirs.cpu_us for block in measured])
    executed = [block.ours.instructions / block.theirs.instructions for block in measured] if counts else []
    measures = {"cpu": cpu, "instructions": compared(executed) if executed else None}
    sides = {"this": [block.ours.cpu_us for block in measured], "against": [block.theirs.cpu_us for block in measured]}
    sound = all(block.clean for block in measured)
    regressed = any(found["regressed"] for found in measures.values() if found)
    return {
        "scenario": "guard",
        "provider": scenario.provider,
        "against": commit,
        "count": scenario.count,
        "cpu_us": {side: round(statistics.median(values), 3) for side, values in sides.items()},
        **measures,
        "ratio": cpu["ratio"],
        "ledgers_clean": sound,
        "regressed": regressed,
        "clean": sound and not regressed,
        **report.surroundings(),
    }
