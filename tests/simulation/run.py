"""Plays seeds."""

from __future__ import annotations

import gc
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import apsw

from bench.ledger import Balance
from gateway.settings import Settings
from tests.simulation.patches import simulated
from tests.simulation.verdict import ask, judge
from tests.simulation.world import World

UNEXPECTED = {"batch.set_aside"}
"""Log lines that mean that something went wrong inside of the gateway."""

MEMORY = Path("/dev/shm")


class Played(NamedTuple):
    """What came of a seed."""

    seed: int
    problems: list[str]
    history: str
    """A digest of all that happened."""
    balance: Balance | None
    faults: dict[str, int]
    seconds: float
    """Virtual ones."""
    states: dict[str, int]


def replay(seed: int) -> str:
    """The command that plays a seed again."""
    return f".venv/bin/python -m tests.simulation {seed}"


def sealed(path: Path) -> list[str]:
    """The jobs with an ordering key in the order in which they were stored."""
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        return [job for (job,) in db.execute("SELECT id FROM jobs WHERE ordering_key IS NOT NULL ORDER BY number")]


def play(seed: int, settings: Settings, narrate: Callable[[str], None] | None = None) -> Played:
    gc.disable()  # when it runs is nobody's seed
    gc.freeze()  # so that the collection in the end is of this world alone, and is a whole one
    try:
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
            return _play(World(seed, Path(folder), settings, narrate))
    finally:
        with _unheard():
            gc.collect()
        gc.unfreeze()
        gc.enable()


@contextmanager
def _unheard() -> Iterator[None]:
    """Coroutines of killed processes are thrown away where they are. That they never went on is no news."""
    former, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.unraisablehook = former


def _play(world: World) -> Played:
    states: dict[str, int] = {}
    balance = None
    with simulated(world.machine, world.disk, world.random("chance")) as logs:
        world.run()
        if not world.problems:
            told = world.ask_somebody(lambda worker: ask(worker, [*world.accepted, *world.unanswered]))
            world.sealed = sealed(world.path)
            if told is not None:
                balance = judge(world, told)
                for receipt in told.receipts:
                    states[receipt.state] = states.get(receipt.state, 0) + 1
            world.stop()
        with _unheard():
            world.bury()
            gc.collect()
    world.problems += [f"logged: {line}" for line in logs if line["event"] in UNEXPECTED]
    return Played(
        world.seed,
        world.problems,
        world.history.hexdigest(),
        balance,
        world.faults.counts,
        world.machine.now,
        states,
    )
