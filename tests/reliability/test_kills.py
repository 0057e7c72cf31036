"""kill -9 at moments of acceptance, commit, sending and receipt."""

from __future__ import annotations

import pytest

from bench import crash
from bench.ledger import Balance

from .conftest import Evidence

ROW = "R2"


def test_killed_processes_lose_nothing_and_repeat_at_most_what_was_on_the_wire(
    long: bool, seed: int, evidence: Evidence
) -> None:
    """Every job that was answered with 202 ends in one receipt each, whichever processes are killed meanwhile."""
    if long:
        pytest.skip("at full scale it is a command of its own: python -m bench crash --kills 60")
    result = crash.run(kills=5, count=3000, seed=seed)
    balance = Balance(**result["ledger"])
    figures = {name: result[name] for name in ("seed", "kills", "phases", "victims", "on_wire_at_kills")}
    evidence.record(f"{result['kills']} kills over {balance.accepted:,} deliveries", figures, balance)
    assert balance.clean, result
    assert result["kills"] == 5
    assert balance.accepted == balance.receipts == 3000
