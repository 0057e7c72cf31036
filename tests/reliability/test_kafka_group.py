"""Gateways of one group that join, leave, die and stand still, with brokers whose leaders die."""

from __future__ import annotations

import pytest

from bench.kafka import chaos
from bench.ledger import Balance

from .conftest import Evidence

ROW = "R5"


@pytest.mark.timeout(1800)
def test_a_group_loses_nothing_and_repeats_at_most_what_was_in_hand(long: bool, evidence: Evidence) -> None:
    """Three gateways, twelve partitions, three brokers: every accepted delivery has one receipt, and what was sent
    twice was in the hands of a gateway that was killed or stood still."""
    if not long:
        pytest.skip("minutes of rebalances: at full scale only")
    result = chaos.run(60_000, 30)
    print(f"seed {result['seed']}")
    balance = Balance(**result["ledger"])
    names = ("seed", "events", "in_hand_at_kills", "receipts_repeated", "receipts_changed", "states")
    evidence.record(result["done"], {name.replace("_", " "): result[name] for name in names}, balance)
    assert result["clean"], result
    assert balance.duplicates <= balance.duplicates_bound
