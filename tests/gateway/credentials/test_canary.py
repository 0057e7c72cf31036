"""When a canary goes further, and when back."""

from __future__ import annotations

import pytest

from gateway.credentials.canary import ENOUGH, Judgement, judge
from gateway.credentials.records import Counts, Record

CANARY = Record(2, "shop", "apns", "upload", "f", "k", None, "canary", 0.01, "", 0.0, None, 0.0, None, 0.0, "alice")
STAY, FURTHER, BACK = Judgement.STAY, Judgement.FURTHER, Judgement.BACK


@pytest.mark.parametrize(
    ("counts", "elapsed", "judged"),
    [
        (Counts(10, 0, 1000, 0), 59.0, STAY),
        (Counts(10, 0, 1000, 0), 60.0, FURTHER),
        (Counts(0, 0, 1000, 0), 600.0, STAY),  # it has not had its share yet
        (Counts(0, 0, 0, 0), 60.0, FURTHER),  # nobody sends anything
        (Counts(0, 5, 1000, 5), 60.0, STAY),  # too few to say anything
        (Counts(40, ENOUGH - 40, 1000, 10), 1.0, BACK),
        (Counts(95, 5, 2000, 5), 1.0, STAY),  # 5 % against none
        (Counts(94, 6, 2000, 6), 1.0, BACK),
        (Counts(80, 20, 1600, 220), 60.0, FURTHER),  # 20 % against 12 %
    ],
)
def test_a_canary_is_judged_by_its_window_and_by_the_others_failures(
    counts: Counts, elapsed: float, judged: Judgement
) -> None:
    assert judge(CANARY, counts, elapsed, 60.0) is judged
