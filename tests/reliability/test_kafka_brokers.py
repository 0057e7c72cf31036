"""Brokers that die and stand still while gateways produce and consume."""

from __future__ import annotations

import pytest

from bench.kafka import chaos
from bench.ledger import Balance

from .conftest import Evidence

ROW = "R6"


@pytest.mark.timeout(1200)
def test_leaders_that_die_or_stand_still_cost_nothing_but_time(long: bool, evidence: Evidence) -> None:
    """No false 202, no loss, and no notification twice, as no gateway is lost."""
    if not long:
        pytest.skip("minutes of elections: at full scale only")
    result = chaos.run(50_000, 10, kinds=chaos.BROKER_EVENTS)
    print(f"seed {result['seed']}")
    balance = Balance(**result["ledger"])
    names = ("seed", "events", "longest_until_accepted_seconds", "requests_refused", "receipts_repeated")
    evidence.record(result["done"], {name.replace("_", " "): result[name] for name in names}, balance)
    assert result["clean"], result
