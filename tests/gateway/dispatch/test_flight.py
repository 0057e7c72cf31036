"""Which of a batch's deliveries are to be sent, on the wire, waiting, or done."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.dispatch.flight import COARSE, FIRST_STORED, Flight
from gateway.model import Note, State, split_delivery_id
from gateway.queue.base import BATCH_LOAD, load
from gateway.queue.columns import Columns
from tests.gateway.dispatch.scripted import flight, job, lease, words
from tests.gateway.virtual import EPOCH


def test_deliveries_go_in_order_and_are_marked_before_they_are_framed() -> None:
    batch = flight(count=5)
    assert list(batch.next(2)) == [0, 1]
    assert list(batch.next(9)) == [2, 3, 4]
    assert words(batch) == ["sent"] * 5
    assert bytes(batch.lease.progress.states) == bytes([State.SENT] * 5), "the queue has to see it at once"
    assert not batch.ready


def test_rows_are_the_same_for_a_run_and_for_single_ones() -> None:
    batch = flight(count=20)
    run, single = batch.rows(range(3, 7)), batch.rows([3, 4, 5, 6])
    assert run == single
    assert run.targets == ([b"t3", b"t4", b"t5", b"t6"],)
    assert run.variables == ([b"n3", b"n4", b"n5", b"n6"],)


def test_an_id_leads_back_to_its_batch_and_index() -> None:
    batch = flight(count=300)
    for index in (0, 9, 255, 299):
        (delivery_id,) = batch.rows([index]).ids
        assert split_delivery_id(delivery_id.decode()) == (batch.lease.batch_id, index)


def test_what_comes_back_goes_before_what_never_went() -> None:
    batch = flight(count=5)
    batch.next(2)
    batch.put_back(1)
    assert list(batch.next(5)) == [1]
    assert list(batch.next(5)) == [2, 3, 4]


def test_a_retry_comes_back_when_it_is_due_and_not_before() -> None:
    batch = flight(count=3)
    batch.next(3)
    batch.put_off(2, 10.0)
    batch.put_off(0, 5.0)
    assert batch.due == 5.0
    assert not batch.bring_back(4.9, 9)
    assert batch.bring_back(5.0, 9)
    assert list(batch.next(3)) == [0]
    assert batch.bring_back(99.0, 9)
    assert list(batch.next(3)) == [2]


def test_a_batch_that_only_waits_keeps_what_is_left_of_it_and_no_more() -> None:
    batch = flight(count=100)
    before = batch.rows([7, 40])
    for index in batch.next(100):
        if index in (7, 40):
            batch.put_off(index, 5.0)
        else:
            batch.finish(index, State.ACCEPTED, 1, "")
    batch.shrink()
    assert [len(column) for column in (*batch.targets, *batch.variables, batch.registered)] == [2, 2, 2]
    assert batch.burden == BATCH_LOAD + 2
    batch.bring_back(5.0, 9)
    assert batch.rows(sorted(batch.next(9))) == before


def test_a_batch_of_which_something_is_on_its_way_keeps_all_of_it() -> None:
    batch = flight(count=3)
    batch.next(2)
    batch.put_off(0, 5.0)
    batch.shrink()
    assert batch.rows(range(3)).targets == ([b"t0", b"t1", b"t2"],)
    assert batch.burden == load(3)


def test_retries_come_in_steps_of_a_quarter_of_their_wait_at_most_and_never_early() -> None:
    batch = flight(count=1)
    for wait in (0.01, 0.25, 0.6, 1.0, 7.3, 900.0):
        dues = {batch.step(now / 64, wait) - now / 64 for now in range(640)}
        assert wait - 1e-9 <= min(dues)
        assert max(dues) < wait + max(COARSE, wait * COARSE)
    one_wait = {batch.step(100.0 + number / 1000, 0.75) for number in range(250)}
    assert len(one_wait) <= 3, "what was refused within a quarter of a second comes back at a few instants"


def test_what_was_answered_of_a_batch_that_waits_is_to_be_stored_ever_more_rarely() -> None:
    batch = flight(count=4)
    batch.next(4)
    batch.finish(0, State.ACCEPTED, 1, "")
    assert not batch.unstored(100.0), "the rest is on the wire"
    for index in (1, 2, 3):
        batch.put_off(index, 500.0)
    assert not batch.unstored(FIRST_STORED)
    assert batch.unstored(FIRST_STORED + 0.1)
    batch.storing(FIRST_STORED + 0.1)
    assert not batch.unstored(100.0), "nothing was answered since"
    batch.bring_back(500.0, 1)
    for index in batch.next(1):
        batch.finish(index, State.ACCEPTED, 1, "")
    assert not batch.unstored(3 * FIRST_STORED)
    assert batch.unstored(3 * FIRST_STORED + 0.2)


def test_what_may_have_been_sent_is_never_called_unsent_by_its_column() -> None:
    """The column outlives the process, the note that tells of a try without an answer does not."""
    batch = flight(count=3)
    batch.next(3)
    for index in (0, 1):
        batch.note(index).unanswered = 1
    batch.put_off(0, 5.0)
    batch.put_back(1)
    batch.put_back(2)
    assert words(batch) == ["sent", "sent", "pending"]
    stored = Columns.of(batch.lease.progress)
    assert stored.states == bytes(3), "beside the notes"
    assert batch.abandon(State.EXPIRED, 1, "late") == 3
    assert words(batch) == ["unknown", "unknown", "expired"]


def test_of_what_is_due_no_more_comes_back_than_may() -> None:
    """The first ones first; the rest goes on waiting."""
    batch = flight(count=3)
    for index in batch.next(3):
        batch.put_off(index, 5.0 - index)
    assert batch.bring_back(9.0, 0) == 0
    assert batch.bring_back(9.0, 2) == 2
    assert (list(batch.next(3)), batch.held_back(9.0), batch.waiting) == ([2, 1], 1, 1)


def test_a_look_is_spared_only_where_it_would_find_nothing() -> None:
    batch = flight(count=3, of=lease(3, job(expires_in=100.0)))
    before, late = EPOCH + 99.0, EPOCH + 100.0
    for index in batch.next(3):
        batch.put_off(index, 5.0)
    assert not batch.asleep(0.0, before), "its columns are to be dropped"
    batch.shrink()
    assert not batch.asleep(0.0, before), "and its sender is to count it anew"
    batch.load = batch.burden
    assert batch.asleep(4.9, before)
    assert not batch.asleep(5.0, before), "due"
    assert not batch.asleep(4.9, late), "expired"
    batch.bring_back(5.0, 1)
    batch.next(1)
    assert not batch.asleep(4.9, before), "one is on the wire"


def test_it_is_idle_when_all_that_is_left_waits() -> None:
    batch = flight(count=3)
    batch.next(3)
    batch.put_off(0, 5.0)
    assert not batch.idle
    batch.finish(1, State.ACCEPTED, 1, "")
    batch.finish(2, State.ACCEPTED, 1, "")
    assert batch.idle
    batch.bring_back(5.0, 9)
    assert not batch.idle


def test_abandoning_spares_what_is_on_the_wire() -> None:
    batch = flight(count=4)
    batch.next(2)
    batch.put_off(1, 5.0)
    assert batch.abandon(State.EXPIRED, 7, "too late") == 3
    assert words(batch) == ["sent", "expired", "expired", "expired"]
    assert (batch.left, batch.on_wire, batch.waiting, batch.ready) == (1, 1, 0, False)
    assert batch.notes[1].reason == "too late"


def test_abandoning_does_not_call_expired_what_may_have_arrived() -> None:
    batch = flight(count=2, notes={1: Note(attempts=2, unanswered=1)})
    batch.abandon(State.CANCELLED, 7, "cancelled")
    assert words(batch) == ["cancelled", "unknown"]


def test_after_it_is_let_go_late_answers_touch_nothing_of_the_lease() -> None:
    """By then the columns are the queue's, or another holder's."""
    batch = flight(count=4, notes={1: Note(attempts=2)})
    batch.next(3)
    batch.detach()
    batch.finish(0, State.ACCEPTED, 7, "reason")
    batch.put_off(1, 5.0)
    batch.note(1).attempts = 9
    batch.put_back(2)
    left = batch.lease.progress
    assert bytes(left.states) == bytes([State.SENT] * 3 + [State.PENDING])
    assert list(left.milliseconds) == [0] * 4
    assert left.notes == {1: Note(attempts=2)}


def test_after_it_is_let_go_nothing_of_it_is_ready() -> None:
    batch = flight(count=4)
    batch.next(2)
    batch.put_back(0)
    batch.put_off(1, 5.0)
    batch.detach()
    assert not batch.ready
    assert not batch.bring_back(9.0, 9)


def test_an_age_fits_its_column_whatever_the_clocks_say() -> None:
    batch = flight(of=lease(1, job()))
    assert batch.age(EPOCH + 1.5) == 1500
    assert batch.age(EPOCH - 10) == 0, "another machine's clock"
    assert batch.age(EPOCH + 100 * 86_400) == 0xFFFFFFFF, "a job for next spring"


class Life(RuleBasedStateMachine):
    """A model that keeps each delivery in one named place."""

    @initialize(count=st.integers(1, 12))
    def start(self, count: int) -> None:
        self.flight: Flight = flight(count=count)
        self.places: dict[str, list[int]] = {"ready": list(range(count)), "wire": [], "waiting": [], "done": []}
        self.due: dict[int, float] = {}
        self.now = 0.0

    def move(self, index: int, source: str, target: str) -> None:
        self.places[source].remove(index)
        self.places[target].append(index)

    def some(self, data: st.DataObject, place: str) -> int:
        return data.draw(st.sampled_from(sorted(self.places[place])))

    @precondition(lambda self: self.places["ready"])
    @rule(count=st.integers(1, 5))
    def next(self, count: int) -> None:
        indexes = list(self.flight.next(count))
        assert indexes
        for index in indexes:
            self.move(index, "ready", "wire")

    @precondition(lambda self: self.places["wire"])
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        index = self.some(data, "wire")
        self.flight.put_back(index)
        self.move(index, "wire", "ready")

    @precondition(lambda self: self.places["wire"])
    @rule(data=st.data(), wait=st.integers(0, 5))
    def put_off(self, data: st.DataObject, wait: int) -> None:
        index = self.some(data, "wire")
        self.flight.put_off(index, self.now + wait)
        self.due[index] = self.now + wait
        self.move(index, "wire", "waiting")

    @precondition(lambda self: self.places["wire"])
    @rule(data=st.data(), state=st.sampled_from([State.ACCEPTED, State.REJECTED, State.UNKNOWN]))
    def finish(self, data: st.DataObject, state: State) -> None:
        index = self.some(data, "wire")
        self.flight.finish(index, state, 1, "")
        self.move(index, "wire", "done")

    @rule(seconds=st.integers(0, 3), most=st.integers(0, 9))
    def bring_back(self, seconds: int, most: int) -> None:
        self.now += seconds
        due = [index for index in self.places["waiting"] if self.due[index] <= self.now]
        due = sorted(due, key=lambda index: (self.due[index], index))
        assert self.flight.bring_back(self.now, most) == min(most, len(due))
        assert self.flight.held_back(self.now) == max(0, len(due) - most)
        for index in due[:most]:
            self.move(index, "waiting", "ready")

    @rule()
    def abandon(self) -> None:
        unsent = self.places["ready"] + self.places["waiting"]
        assert self.flight.abandon(State.EXPIRED, 1, "") == len(unsent)
        for place in ("ready", "waiting"):
            for index in list(self.places[place]):
                self.move(index, place, "done")

    @invariant()
    def everything_is_where_the_model_says(self) -> None:
        states = bytes(self.flight.states)
        assert {index for index, state in enumerate(states) if state == State.SENT} == set(self.places["wire"])
        assert {index for index, state in enumerate(states) if state >= State.ACCEPTED} == set(self.places["done"])
        assert self.flight.on_wire == len(self.places["wire"])
        assert self.flight.waiting == len(self.places["waiting"])
        assert self.flight.left == len(states) - len(self.places["done"])
        assert self.flight.ready == bool(self.places["ready"])
        assert self.flight.idle == (bool(self.places["waiting"]) and self.flight.left == len(self.places["waiting"]))

    def teardown(self) -> None:
        """Everything can still be sent, once."""
        seen: list[int] = []
        self.flight.bring_back(self.now + 10, 99)
        while self.flight.ready:
            seen += self.flight.next(3)
        assert sorted(seen) == sorted(self.places["ready"] + self.places["waiting"])


Life.TestCase.settings = settings(max_examples=200, stateful_step_count=30)
test_each_delivery_is_in_exactly_one_place = Life.TestCase
