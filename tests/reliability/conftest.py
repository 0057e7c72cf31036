"""Attacks on the promises of docs/guarantees.md: one module an attack, at two scales, each leaving its figures.

A module names the row of the report in `ROW`. Its tests take their counts by `long`, print their seeds, hold the ledger
themselves, and tell `evidence` what was done how often and what came of it.
"""

from __future__ import annotations

import json
import random
import re
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.ledger import Balance
from tests.gateway.loops import pytest_asyncio_loop_factories, wall_follows_the_loop  # noqa: F401


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether to attack at full scale."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def seed(request: pytest.FixtureRequest, long: bool) -> int:
    """Where the dice of a test start: the default run's are the same each time, a long one's are new."""
    drawn = random.SystemRandom().randrange(1, 2**31) if long else zlib.crc32(request.node.nodeid.encode()) >> 1
    print(f"seed {drawn}")
    return drawn


class Evidence:
    """What one test found, kept as a file where the run asks for it."""

    def __init__(self, row: str, nodeid: str, scale: str) -> None:
        option = " --long" if scale == "long" else ""
        self._found: dict[str, Any] = {
            "row": row,
            "test": nodeid.rpartition("::")[2],
            "scale": scale,
            "command": f"python -m pytest {nodeid}{option}",
            "done": "nothing was measured",
            "figures": {},
            "ledger": None,
        }
        self._began = time.monotonic()

    def record(self, done: str, figures: Mapping[str, Any], ledger: Balance | None = None) -> None:
        """`done` says what was done how often, `figures` what was measured, by names with their units."""
        self._found |= {
            "done": done,
            "figures": dict(figures),
            "ledger": None if ledger is None else ledger._asdict(),
        }

    def keep(self, folder: Path, passed: bool) -> None:
        """Write the file."""
        found = {**self._found, "passed": passed, "seconds": round(time.monotonic() - self._began, 1)}
        found |= {**report.origin(), **report.surroundings()}
        folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^a-z0-9]+", "-", f"{found['row']}-{found['test']}".lower()).strip("-")
        (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


_OUTCOME = pytest.StashKey[bool | None]()
"""Whether a test passed; None if it was skipped."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    if outcome.when == "call":
        item.stash[_OUTCOME] = None if outcome.skipped else outcome.passed
    return outcome


@pytest.fixture
def evidence(request: pytest.FixtureRequest, long: bool) -> Iterator[Evidence]:
    """Where a test leaves its figures; whether it passed is added to them."""
    found = Evidence(request.module.ROW, request.node.nodeid, "long" if long else "short")
    yield found
    folder, passed = request.config.getoption("--evidence"), request.node.stash.get(_OUTCOME, False)
    if folder and passed is not None:
        found.keep(Path(folder), passed)
