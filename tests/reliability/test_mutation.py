"""Whether a test notices when the code that decides about deliveries is changed in one place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Evidence
from .mutation import SUBJECTS, mutants

ROW = "R27"
ROOT = Path(__file__).parent.parent.parent
MOST = 25
"""Mutants of a module that are tried, drawn by a seed: one to four minutes for the larger, beside others."""
KILLED = 0.85


SOURCE = """
LIMIT = 5

def room(self, now: float) -> int:
    self.at = now
    if self.held and now < 2.0:
        return int(self.saved + LIMIT)
    self.count(1)
"""


def test_each_mutant_has_one_change(tmp_path: Path) -> None:
    """Comparisons, numbers, operators, conditions, results and statements; no named figure, no local name."""
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    changes = {mutant.what.partition("  ->  ")[2] for mutant in mutants(str(path))}
    assert {
        "now <= 2.0", "3.0", "self.held or now < 2.0", "if not (self.held and now < 2.0):", "return None",
        "self.saved - LIMIT", "2", "pass",
    } == changes  # fmt: skip


@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", SUBJECTS)
def test_a_test_notices(path: str, long: bool, seed: int, evidence: Evidence) -> None:
    """At least 85 of 100 mutants of each module are killed by the module's own tests."""
    if not long:
        pytest.skip("needs --long")
    command = ["-m", "tests.reliability.mutation", path, "--most", str(MOST), "--seed", str(seed)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    alive = found["survivors"]
    killed = found["tried"] - len(alive)
    share = killed / found["tried"]
    figures = {"seed": seed, "mutants": found["mutants"], "killed": killed, "survived": len(alive)}
    figures["percent_killed"] = round(100 * share, 1)
    evidence.record(f"{found['tried']} of {found['mutants']} mutants of `{path}`", figures)
    assert share >= KILLED, "\n".join(alive)
