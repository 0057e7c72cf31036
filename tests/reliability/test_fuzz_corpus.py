"""Every parser of what strangers send: what once broke one, or might, and a search for more guided by coverage."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import Evidence
from .fuzz import CORPUS, NAMES
from .fuzz.targets import ALL

ROW = "R21"
ROOT = Path(__file__).parent.parent.parent
HANG = 1.0
"""Seconds of processor time for one input."""
SECONDS = 180
"""Of search, each target; two are searched at a time."""


def test_each_target_has_its_corpus() -> None:
    assert set(NAMES) == set(ALL)


@pytest.mark.parametrize("name", NAMES)
def test_no_input_of_the_corpus_breaks_a_promise(name: str, evidence: Evidence) -> None:
    """The promise is the target's docstring; besides, nothing takes a second."""
    inputs, slowest = sorted((CORPUS / name).iterdir()), 0.0
    for path in inputs:
        began = time.process_time()
        try:
            ALL[name](path.read_bytes())
        except Exception as error:
            error.add_note(f"by {path.relative_to(ROOT)}")
            raise
        slowest = max(slowest, time.process_time() - began)
    evidence.record(f"{len(inputs)} inputs of the corpus of `{name}`", {"slowest_ms": round(slowest * 1000, 1)})
    assert slowest < HANG


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("name", NAMES)
def test_no_input_that_is_searched_for_breaks_a_promise(name: str, long: bool, seed: int, evidence: Evidence) -> None:
    """Inputs are bred from the corpus, towards code that none has reached yet. What breaks a promise is left in the
    corpus."""
    if not long or importlib.util.find_spec("atheris") is None:
        pytest.skip("needs --long, and Atheris")
    before = set((CORPUS / name).iterdir())
    command = ["-m", "tests.reliability.fuzz", name, "--seconds", str(SECONDS), "--seed", str(seed)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    found = sorted(path.name for path in set((CORPUS / name).iterdir()) - before)
    runs = re.search(r"stat::number_of_executed_units: (\d+)", done.stderr)
    reached = re.findall(r"cov: (\d+)", done.stderr)
    figures = {
        "seed": seed,
        "inputs": int(runs[1]) if runs else 0,
        "edges_reached_first_and_last": [int(reached[0]), int(reached[-1])] if reached else [],
        "found": found,
    }
    evidence.record(f"{SECONDS} s of search on `{name}`, {figures['inputs']:,} inputs", figures)
    assert done.returncode == 0, (found, done.stderr[-5000:])
    assert not found
    assert figures["inputs"] > 1000
