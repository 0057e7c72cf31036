"""The guard decides by an interval that assumes nothing about the noise."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import guard, instructions


@pytest.mark.parametrize(("blocks", "rank"), [(6, 0), (8, 0), (9, 1), (12, 2), (20, 5)])
def test_the_interval_is_that_of_the_tables_of_the_sign_test(blocks: int, rank: int) -> None:
    """Ranks of the 95 % interval for a median, as printed in textbooks (counted from 0)."""
    found = guard.interval([float(number) for number in range(blocks)])
    assert (found.low, found.high) == (rank, blocks - 1 - rank)
    assert found.confidence >= 0.95


@given(st.integers(guard.FEWEST_BLOCKS, 40))
def test_the_interval_is_the_narrowest_with_enough_confidence(blocks: int) -> None:
    found = guard.interval([float(number) for number in range(blocks)])
    rank = int(found.low)
    outside = sum(math.comb(blocks, heads) for heads in range(rank + 1)) * 2 / 2**blocks
    assert found.confidence == pytest.approx(1 - outside)
    assert outside + 2 * math.comb(blocks, rank + 1) / 2**blocks > 0.05


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    """Of heavily tailed noise, where a mean and its deviation would say nothing."""
    draw = random.Random(7)
    held = sum(
        found.low <= 1.0 <= found.high
        for found in (
            guard.interval([math.exp(draw.gauss(0, 0.02) / draw.uniform(0.05, 1)) for _ in range(12)])
            for _ in range(2000)
        )
    )
    assert held / 2000 > 0.95


@pytest.mark.parametrize(
    ("ratios", "regressed"),
    [
        ([1.10] * 12, True),
        ([1.06] * 12, True),
        ([1.04] * 12, False),
        ([0.9] * 12, False),
        ([1.0] * 9 + [2.0] * 3, False),  # disturbed blocks
        ([1.04, 1.10] * 6, False),  # perhaps, but not surely above
    ],
)
def test_only_what_is_surely_above_the_allowance_is_a_regression(ratios: list[float], regressed: bool) -> None:
    assert guard.compared(ratios)["regressed"] is regressed


def test_perfs_counts_are_added_up() -> None:
    text = "1200,,instructions,1000,100.00,,\n300,,instructions,1000,100.00,,\n"
    assert instructions.parse(text) == 1500


@pytest.mark.parametrize("text", ["", "<not supported>,,instructions,0,100.00,,\n", "Error: no such event\n"])
def test_what_the_machine_does_not_count_is_no_number(text: str) -> None:
    assert instructions.parse(text) is None
