"""Whatever holders, callers, deaths and clocks do in whatever order: each delivery ends once and none is lost."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from gateway.model import INDEX_DIGITS, Job, State, delivery_prefix
from gateway.queue.base import Lease, LeaseLost, NewBatch
from gateway.queue.sqlite import SqliteQueue
from gateway.receipts.store import ReceiptStore
from tests.gateway.queue.samples import APNS, FCM, NOW, batch, job, room

T = TypeVar("T")

LEASE_SECONDS = 60.0
MAX_CRASHES = 1000
"""More than a run has: what becomes of batches that holders die with again and again is shown by `test_parking`."""
HOLDERS = st.sampled_from(["one", "two"])
VERDICTS = st.sampled_from([State.SENT, State.ACCEPTED, State.REJECTED, State.PENDING])


async def die(queue: SqliteQueue) -> None:
    """What kill -9 leaves: the file of the flight recorder, not locked any more, and all that was committed."""
    recorder = queue._recorder
    assert recorder is not None
    recorder.close(remove=False)
    queue._recorder = None
    await queue.database.close()


class Held:
    """A lease in somebody's hands, and until when."""

    def __init__(self, holder: str, lease: Lease, until: float) -> None:
        self.holder, self.lease, self.until = holder, lease, until
        self.lost = False

    @property
    def states(self) -> list[int]:
        return list(self.lease.progress.states)


class QueueMachine(RuleBasedStateMachine):
    """`expected` holds what the next lease of each waiting batch must show."""

    jobs = Bundle("jobs")
    leases = Bundle("leases")

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.now = NOW
        self.queues: dict[str, SqliteQueue] = {}
        self.expected: dict[bytes, list[int]] = {}
        self.held: dict[bytes, Held] = {}
        self.leased: list[Held] = []
        self.ended: dict[bytes, list[int]] = {}
        self.batches: dict[bytes, tuple[Job, int]] = {}
        self.uploads: dict[str, tuple[str, list[NewBatch]]] = {}
        self.cancelled: set[str] = set()
        for holder in ("one", "two"):
            self.open(holder)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def open(self, holder: str) -> None:
        queue = SqliteQueue(
            self.folder / "queue.db",
            owner=holder,
            lease_seconds=LEASE_SECONDS,
            slots=64,
            max_crashes=MAX_CRASHES,
            uptime=lambda: self.now,
        )
        self.run(queue.open())
        self.queues[holder] = queue

    # --- the model

    def visible(self, new: Job, batches: list[NewBatch]) -> None:
        for each in batches:
            self.batches[each.id] = new, each.count
            self.expected[each.id] = [State.PENDING] * each.count

    def given_back(self, batch_id: bytes, states: list[int]) -> None:
        """The batch waits again, or is over."""
        self.held.pop(batch_id, None)
        if self.batches[batch_id][0].id in self.cancelled:
            swap = {State.PENDING: State.CANCELLED, State.SENT: State.UNKNOWN}
            states = [swap.get(State(state), state) for state in states]
        if all(state >= State.ACCEPTED for state in states):
            self.ended[batch_id] = states
        else:
            self.expected[batch_id] = states

    def expire(self, asking: str) -> None:
        """What ran out goes to whoever asks for work, but not from the one who asks: it is alive."""
        for batch_id, held in list(self.held.items()):
            if held.until <= self.now and held.holder != asking:
                held.lost = True
                self.given_back(batch_id, [state or State.SENT for state in held.states])

    # --- what callers do

    @rule(target=jobs, sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3), holder=HOLDERS)
    def submit(self, sizes: list[int], holder: str) -> Job:
        new, batches = job(created_at=self.now), [batch(size, (APNS, FCM)[size % 2]) for size in sizes]
        assert self.run(self.queues[holder].submit(new, None, batches, b"")) is None
        self.visible(new, batches)
        return new

    @rule(target=jobs, size=st.integers(1, 4), holder=HOLDERS)
    def begin(self, size: int, holder: str) -> Job:
        new, first = job(created_at=self.now), batch(size)
        self.run(self.queues[holder].begin(new, None))
        self.run(self.queues[holder].put(new.id, [first]))
        self.uploads[new.id] = holder, [first]
        return new

    @rule(new=jobs)
    def seal(self, new: Job) -> None:
        if new.id in self.uploads:
            holder, batches = self.uploads.pop(new.id)
            last = batch(2, FCM)
            self.run(self.queues[holder].seal(new.id, [last], b"", b""))
            self.visible(new, [*batches, last])

    @rule(new=jobs)
    def abandon(self, new: Job) -> None:
        if new.id in self.uploads:
            holder, _ = self.uploads.pop(new.id)
            self.run(self.queues[holder].abandon(new.id))

    @rule(new=jobs, holder=HOLDERS)
    def cancel(self, new: Job, holder: str) -> None:
        mine = [batch_id for batch_id, (owner, _) in self.batches.items() if owner.id == new.id]
        assert self.run(self.queues[holder].cancel(new.id, self.now)) == bool(mine)
        if mine and not all(batch_id in self.ended for batch_id in mine):
            self.cancelled.add(new.id)
        for batch_id in mine:
            if batch_id in self.expected:
                self.given_back(batch_id, self.expected.pop(batch_id))

    # --- what holders do

    @rule(target=leases, holder=HOLDERS, batches=st.integers(1, 3))
    def lease(self, holder: str, batches: int) -> Any:
        self.expire(holder)
        leases = self.run(self.queues[holder].lease(room(batches=batches), self.now))
        assert len(leases) == min(batches, len(self.expected))
        taken = []
        for each in leases:
            assert list(each.progress.states) == self.expected.pop(each.batch_id)
            held = self.held[each.batch_id] = Held(holder, each, self.now + LEASE_SECONDS)
            taken.append(held)
        self.leased += taken
        return multiple(*taken)

    @rule(held=leases, index=st.integers(0, 3), state=VERDICTS)
    def mark(self, held: Held, index: int, state: State) -> None:
        """A delivery is sent, or answered, or found not to have been processed; also by holders who lost it."""
        states = held.lease.progress.states
        if index < len(states) and states[index] < State.ACCEPTED:
            states[index] = state

    @rule(held=leases)
    def checkpoint(self, held: Held) -> None:
        if self.refused(held, lambda queue: queue.checkpoint(held.lease, [], self.now)):
            return
        held.until = self.now + LEASE_SECONDS

    @rule(held=leases)
    def defer(self, held: Held) -> None:
        states = held.states
        if not self.refused(held, lambda queue: queue.defer(held.lease, 0.0, [], self.now)):
            held.lost = True
            self.given_back(held.lease.batch_id, states)

    @rule(held=leases)
    def complete(self, held: Held) -> None:
        states = held.lease.progress.states
        for index, state in enumerate(held.states):
            states[index] = max(state, State.ACCEPTED)
        ended = held.states
        if not self.refused(held, lambda queue: queue.complete(held.lease, [], self.now)):
            held.lost = True
            del self.held[held.lease.batch_id]
            self.ended[held.lease.batch_id] = ended

    def refused(self, held: Held, change: Any) -> bool:
        """Do it; a lost lease must be refused, and only that."""
        try:
            self.run(change(self.queues[held.holder]))
        except LeaseLost:
            assert held.lost
            return True
        assert not held.lost
        return False

    # --- what the world does

    @rule(seconds=st.sampled_from([1.0, LEASE_SECONDS / 2, LEASE_SECONDS]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(holder=HOLDERS)
    def crash(self, holder: str) -> None:
        """kill -9 and a successor: what was in the dead one's hands is exactly as it left it."""
        self.run(die(self.queues[holder]))
        for batch_id, held in list(self.held.items()):
            if held.holder == holder:
                self.given_back(batch_id, held.states)
        for held in self.leased:
            held.lost = held.lost or held.holder == holder
        self.uploads = {job_id: upload for job_id, upload in self.uploads.items() if upload[0] != holder}
        self.open(holder)

    @rule(holder=HOLDERS)
    def recover(self, holder: str) -> None:
        """Recovering at any time takes nothing from the living."""
        self.run(self.queues[holder].maintain(self.now))

    # --- what must hold

    @invariant()
    def depth(self) -> None:
        depth = self.run(self.queues["one"].depth())
        open_ = [size for batch_id, (_, size) in self.batches.items() if batch_id not in self.ended]
        uploading = [each.count for _, batches in self.uploads.values() for each in batches]
        assert depth[:2] == (len(open_) + len(uploading), sum(open_) + sum(uploading))

    @invariant()
    def receipts(self) -> None:
        """The feed holds each terminal delivery once, in its final state, with none missing."""
        page = self.run(ReceiptStore(self.queues["two"].database).feed(0, 10_000))
        seen = {receipt.id: receipt.state for receipt in page.receipts}
        assert len(seen) == len(page.receipts)
        for batch_id, states in self.ended.items():
            found = self.run(ReceiptStore(self.queues["two"].database).deliveries(ids(batch_id, len(states))))
            for delivery_id, state in zip(ids(batch_id, len(states)), states, strict=True):
                assert seen[delivery_id] == found[delivery_id].state == State(state).word

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.finish()
        finally:
            for queue in self.queues.values():
                self.run(queue.close())
            self.loop.close()
            shutil.rmtree(self.folder)

    def finish(self) -> None:
        """Let every lease run out and end what is left: then each delivery that was ever accepted has its receipt."""
        self.now += LEASE_SECONDS
        idle = 0
        while idle < 2:
            holder = ("one", "two")[idle]
            queue = self.queues[holder]
            self.expire(holder)
            leases = self.run(queue.lease(room(), self.now))
            idle = 0 if leases else idle + 1
            for lease in leases:
                states = [max(state, State.ACCEPTED) for state in lease.progress.states]
                lease.progress.states[:] = bytes(states)
                self.run(queue.complete(lease, [], self.now))
                self.expected.pop(lease.batch_id)
                self.ended[lease.batch_id] = states
        assert set(self.ended) == set(self.batches)
        self.depth()
        self.receipts()


def ids(batch_id: bytes, count: int) -> list[str]:
    return [delivery_prefix(batch_id) + INDEX_DIGITS[index].decode() for index in range(count)]


@pytest.mark.timeout(120)
class TestQueueMachine(QueueMachine.TestCase):  # type: ignore[misc]
    settings = settings(
        max_examples=40,
        stateful_step_count=30,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
