"""The offset that may be committed never passes a record that is not done, whatever happens in which order."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway.kafka.watermark import Watermark

from .conftest import Evidence

ROW = "R4"


class Partition(RuleBasedStateMachine):
    """A partition, the group's memory of it, and members that come, go and die.

    The model knows which records exist and which were worked off by whom; a commit is judged by whether a member that
    starts from it would meet every record that nobody has worked off.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log: list[int] = []  # offsets, with gaps
        self.done: set[int] = set()
        self.committed = 0
        self.read = 0  # how many of the log this assignment has read
        self.watermark = Watermark()
        self.former: list[tuple[Watermark, set[int]]] = []  # assignments that are over, and what they have in hand
        self.in_hand: set[int] = set()

    @initialize(start=st.integers(0, 5))
    def begin(self, start: int) -> None:
        self.log = [start]
        self.committed = start

    @rule(gap=st.integers(1, 4), count=st.integers(1, 5))
    def produce(self, gap: int, count: int) -> None:
        for _ in range(count):
            self.log.append(self.log[-1] + gap)

    @precondition(lambda self: self.read < len(self.log))
    @rule(count=st.integers(1, 6))
    def fetch(self, count: int) -> None:
        for offset in self.log[self.read : self.read + count]:
            self.watermark.seen(offset, 10, note=offset)
            if offset in self.done:
                self.watermark.done(offset)  # as of a batch whose receipts tell that it is done
            else:
                self.in_hand.add(offset)
            self.read += 1

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """Records are done in any order."""
        offset = data.draw(st.sampled_from(sorted(self.in_hand)))
        self.in_hand.discard(offset)
        self.done.add(offset)
        self.watermark.done(offset)

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data())
    def park(self, data: st.DataObject) -> None:
        """Work that waits for long is stored elsewhere, and its record left behind: the same as done, here."""
        self.finish(data)

    @precondition(lambda self: any(held for _, held in self.former))
    @rule(data=st.data())
    def finish_late(self, data: st.DataObject) -> None:
        """What a former assignment had in hand is answered: it tells its own watermark, which nobody commits."""
        watermark, held = data.draw(st.sampled_from([each for each in self.former if each[1]]))
        offset = data.draw(st.sampled_from(sorted(held)))
        held.discard(offset)
        watermark.done(offset)

    @rule(accepted=st.booleans())
    def commit(self, accepted: bool) -> None:
        """A commit that is refused, or of which no answer comes, changes nothing here."""
        if accepted and self.watermark.position is not None:
            assert self.watermark.position >= self.committed
            self.committed = self.watermark.position

    @rule(committed=st.booleans())
    def reassign(self, committed: bool) -> None:
        """Revoked, with its last commit or without it (a crash), and assigned anew, to the same member or another."""
        if committed:
            self.commit(True)
        self.former.append((self.watermark, self.in_hand))
        self.watermark, self.in_hand = Watermark(), set()
        self.read = next((place for place, offset in enumerate(self.log) if offset >= self.committed), len(self.log))

    @invariant()
    def nothing_is_passed(self) -> None:
        open_ = [offset for offset in self.log if offset not in self.done]
        if open_ and self.log:
            assert self.committed <= open_[0]
            if self.watermark.position is not None and self.in_hand:
                assert self.watermark.position <= min(self.in_hand)

    @invariant()
    def what_is_counted_is_what_is_open(self) -> None:
        read = self.log[: self.read]
        begun = [offset for offset in read if self.watermark.position is not None and offset >= self.watermark.position]
        assert self.watermark.span == len(begun)
        assert self.watermark.size == 10 * len(begun)
        assert self.watermark.note == (begun[0] if begun else None)


@pytest.mark.timeout(1200)
def test_no_record_is_passed_that_is_not_done(long: bool, evidence: Evidence) -> None:
    """Records done in any order, parked, revoked, assigned to the same member or another, late completions, commits
    that fail, crashes."""
    examples, steps = (3_000, 100) if long else (500, 50)
    run_state_machine_as_test(
        Partition, settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    )
    evidence.record(f"{examples:,} lives of a partition, of up to {steps} steps each", {"records passed": 0})
