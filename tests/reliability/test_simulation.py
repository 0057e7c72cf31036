"""Real code in a simulated world: clocks, chance, network, services, disk and deaths of processes, drawn from seeds."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bench.ledger import Balance
from gateway.settings import Settings
from tests.reliability.conftest import Evidence
from tests.simulation.material import settings_in
from tests.simulation.mutations import MUTATIONS
from tests.simulation.run import Played, play, replay
from tests.simulation.sensitivity import noticed
from tests.simulation.world import MINUTES

ROW = "R23"

SHORT, LONG = 50, 1000
FIRST = 1

SHARED = 11
"""A seed with much in it."""

NOTICED = ("recovers_sent_as_pending", "releases_keys_too_early", "retries_accepted_ones")
WITHIN = 20
"""Seeds within which a broken promise is noticed; these are noticed within a few."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


@pytest.mark.timeout(1200)
def test_whatever_goes_wrong_each_delivery_ends_once_and_truly(
    settings: Settings, long: bool, evidence: Evidence
) -> None:
    """Of each seed: one terminal receipt for every accepted delivery, which the services' journals agree with; nothing
    sent again whose answer was heard; no living target invalidated; everything over in bounded time; no task or
    connection left behind; no exception that nobody expected."""
    runs = [play(seed, settings) for seed in range(FIRST, FIRST + (LONG if long else SHORT))]
    failed = [run for run in runs if run.problems]
    faults, states = _sum([run.faults for run in runs]), _sum([run.states for run in runs])
    figures = {
        "failed seeds": len(failed),
        "virtual minutes of each": round(sum(run.seconds for run in runs) / 60 / len(runs), 1),
        "faults": dict(faults),
        "receipts by state": dict(states),
    }
    evidence.record(
        f"{len(runs)} seeds: {MINUTES} virtual minutes of faults, and until all was over", figures, _total(runs)
    )
    assert not failed, "\n".join(
        f"seed {run.seed} fails ({replay(run.seed)}):\n  " + "\n  ".join(run.problems[:5]) for run in failed
    )


def test_a_seed_plays_the_same_every_time(settings: Settings) -> None:
    """Each event at the same virtual moment, in the same order, to the last receipt."""
    for seed in (2, 3):
        former, latter = play(seed, settings), play(seed, settings)
        assert former == latter, replay(seed)


def test_a_seed_plays_the_same_in_another_process(settings: Settings) -> None:
    """Nothing depends on where objects lie in memory."""
    here = play(SHARED, settings).history
    command = [sys.executable, "-m", "tests.simulation", str(SHARED)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert f"history {here}" in told, f"{replay(SHARED)}\n{told[-500:]}"


@pytest.mark.parametrize("name", NOTICED)
def test_a_broken_promise_is_noticed(settings: Settings, name: str) -> None:
    """Of those that `tests.simulation.mutations` breaks; the table in its docstring has all."""
    assert noticed(MUTATIONS[name], settings, WITHIN), f"{name}: not within {WITHIN} seeds"


def _sum(counts: list[dict[str, int]]) -> Counter[str]:
    return sum((Counter(each) for each in counts), Counter())


def _total(runs: list[Played]) -> Balance:
    balances = [run.balance for run in runs if run.balance is not None]
    return Balance(*map(sum, zip(*balances, strict=True)))
