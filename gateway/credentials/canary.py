"""Whether a canary goes on, goes further or goes back. Pure."""

from __future__ import annotations

import enum

from gateway.credentials.records import Counts, Record

ENOUGH = 50
"""Answers of a canary from which on its share of failures says something."""
TOLERATED = 0.05
"""By which a canary's share of failures may be above twice the other's."""


class Judgement(enum.Enum):
    """What to do with a canary."""

    STAY = "stay"
    FURTHER = "further"
    BACK = "back"


def judge(record: Record, counts: Counts, elapsed: float, window: float) -> Judgement:
    """Judge by all workers' answers in the `elapsed` seconds since it has its share.

    A refusal of the credential itself is not waited for here: it takes a canary out at once.
    """
    answers = counts.accepted + counts.failed
    others = counts.all_accepted + counts.all_failed - answers
    other_failures = (counts.all_failed - counts.failed) / others if others else 0.0
    if answers >= ENOUGH and counts.failed / answers > 2 * other_failures + TOLERATED:
        return Judgement.BACK
    silent = not answers and not others  # nobody sends: the probe has to do
    return Judgement.FURTHER if elapsed >= window and (counts.accepted or silent) else Judgement.STAY
