"""Attacks on the promises of docs/guarantees.md: one module an attack, at two scales, each leaving its figures.

A module names the row of the report in `ROW`. Its tests take their counts by `long`, print their seeds, hold the ledger
themselves, and tell `evidence` what was done how often and what came of it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.ledger import Balance


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether to attack at full scale."""
    return bool(request.config.getoption("--long"))


class Evidence:
    """What one test found, kept as a file where the run asks for it."""

    def __init__(self, row: str, test: str, scale: str, folder: Path | None) -> None:
        self._row = row
        self._test = test
        self._scale = scale
        self._folder = folder
        self._began = time.monotonic()

    def record(self, done: str, figures: Mapping[str, Any], ledger: Balance | None = None) -> None:
        """`done` says what was done how often, `figures` what was measured, by names with their units."""
        if self._folder is None:
            return
        found = {
            "row": self._row,
            "test": self._test,
            "scale": self._scale,
            "done": done,
            "figures": dict(figures),
            "ledger": None if ledger is None else ledger._asdict(),
            "seconds": round(time.monotonic() - self._began, 1),
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^a-z0-9]+", "-", f"{self._row}-{self._test}".lower()).strip("-")
        (self._folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


@pytest.fixture
def evidence(request: pytest.FixtureRequest, long: bool) -> Evidence:
    """Where a test leaves its figures."""
    folder = request.config.getoption("--evidence")
    return Evidence(
        request.module.ROW, request.node.name, "long" if long else "short", Path(folder) if folder else None
    )
