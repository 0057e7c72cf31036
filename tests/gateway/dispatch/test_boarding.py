"""A lease becomes a flight, whatever a former holder left of it."""

from __future__ import annotations

import pytest

from gateway.dispatch.boarding import PLANS_KEPT, Plans, board, conclude, count_tries
from gateway.dispatch.flight import Flight
from gateway.model import Note, State
from gateway.policy.screening import DIED_ON_WIRE
from gateway.queue.base import DeadTarget, Lease
from gateway.queue.columns import stored_states
from providers.base import ProviderSettings
from tests.gateway.dispatch.scripted import ORIGIN, ROUTE, ScriptedProvider, job, lease, words
from tests.gateway.fakes import MemoryQueue
from tests.gateway.virtual import EPOCH

WALL = EPOCH + 60.0
NOW = 1000.0
P, S, A, R = State.PENDING, State.SENT, State.ACCEPTED, State.REJECTED


async def boarded(of: Lease, *, dead: dict[int, float] | None = None, cancelled: bool = False) -> Flight:
    """The flight of a lease; of targets known to be `dead`, by index, when they died."""
    provider, queue = ScriptedProvider(), MemoryQueue(clock=lambda: WALL)
    for index, since in (dead or {}).items():
        key = b"key of t%d" % index
        queue.dead[ROUTE, key] = DeadTarget(key, since, "gone")
    return await board(of, provider.plan, provider, queue, NOW, WALL, lambda job_id: cancelled)


def sendable(flight: Flight) -> list[int]:
    return list(flight.next(1000))


async def test_a_batch_that_nobody_touched_is_sent_whole() -> None:
    flight = await boarded(lease(5))
    assert (flight.left, flight.waiting, flight.on_wire) == (5, 0, 0)
    assert isinstance(flight.next(2), range), "which the hot path has a short way for"
    assert sendable(flight) == [2, 3, 4]


async def test_what_is_answered_is_left_alone() -> None:
    flight = await boarded(lease(5, states=bytes([A, P, R, P, A])))
    assert flight.left == 2
    assert sendable(flight) == [1, 3]


async def test_a_batch_in_which_all_is_answered_has_nothing_left() -> None:
    flight = await boarded(lease(3, states=bytes([A, R, A])))
    assert flight.left == 0
    assert not flight.ready


def test_a_lease_that_goes_back_as_it_came_keeps_count_of_the_tries() -> None:
    """What is stored says PENDING where a note tells of tries; the last holder's would be forgotten with its state."""
    of = lease(3, job(resend=True), states=bytes([S, S, P]), notes={0: Note(unanswered=1), 2: Note(unanswered=1)})
    count_tries(of)
    assert of.progress.notes == {0: Note(unanswered=2), 2: Note(unanswered=1)}
    assert stored_states(of.progress) == bytes([P, S, P])


async def test_what_its_holder_died_with_is_sent_again_as_another_attempt() -> None:
    flight = await boarded(lease(3, job(resend=True), states=bytes([S, P, S]), notes={2: Note(attempts=4)}))
    assert flight.left == 3
    assert sendable(flight) == [0, 1, 2]
    assert flight.notes == {
        0: Note(reason=DIED_ON_WIRE, attempts=2, unanswered=1),
        2: Note(reason=DIED_ON_WIRE, attempts=5, unanswered=1),
    }


async def test_what_its_holder_died_with_is_reported_where_the_job_says_so() -> None:
    flight = await boarded(lease(3, states=bytes([S, P, S])))
    assert words(flight) == ["unknown", "pending", "unknown"]
    assert flight.left == 1
    assert flight.notes[0] == Note(reason=DIED_ON_WIRE, unanswered=1)
    assert list(flight.milliseconds) == [60_000, 0, 60_000]


async def test_a_retry_goes_on_waiting_for_its_time() -> None:
    notes = {0: Note(attempts=2, retry_at=WALL + 5), 1: Note(attempts=2, retry_at=WALL - 5)}
    flight = await boarded(lease(3, notes=notes))
    assert (flight.waiting, flight.due) == (2, NOW)
    assert sendable(flight) == [2], "the budget lets go those whose time has come"
    flight.bring_back(NOW, 9)
    assert sendable(flight) == [1]
    flight.bring_back(NOW + 5, 9)
    assert sendable(flight) == [0]


@pytest.mark.parametrize("wait", [-1e-6, 0.0, 1e-6])
async def test_a_retry_that_is_due_just_now_is_in_one_place(wait: float) -> None:
    flight = await boarded(lease(1, notes={0: Note(attempts=2, retry_at=WALL + wait)}))
    assert not flight.ready
    flight.bring_back(NOW + 1, 9)
    assert sendable(flight) == [0]


@pytest.mark.parametrize("resend", [False, True])
async def test_a_clock_that_was_set_back_loses_nothing(resend: bool) -> None:
    """Then even what was on the wire has a next try in the future."""
    of = lease(
        2, job(resend=resend), states=bytes([S, P]), notes={0: Note(retry_at=WALL + 3), 1: Note(retry_at=WALL + 9)}
    )
    flight = await boarded(of)
    flight.bring_back(NOW + 10, 9)
    assert sorted(sendable(flight) + sendable(flight)) == ([0, 1] if resend else [1])
    assert flight.left == (2 if resend else 1)


async def test_the_known_dead_never_touch_the_wire() -> None:
    flight = await boarded(lease(4), dead={1: EPOCH, 3: EPOCH})
    assert words(flight) == ["pending", "invalid_token", "pending", "invalid_token"]
    assert flight.notes[1].reason == "gone"
    assert flight.dead == [], "it is known already"
    assert (flight.left, sendable(flight)) == (2, [0, 2])


async def test_whoever_registered_after_the_death_lives() -> None:
    of = lease(3, registered={0: EPOCH - 1, 1: EPOCH, 2: EPOCH + 1})
    flight = await boarded(of, dead={0: EPOCH, 1: EPOCH, 2: EPOCH})
    assert words(flight) == ["invalid_token", "invalid_token", "pending"]


async def test_one_that_may_have_arrived_is_not_called_invalid() -> None:
    of = lease(3, job(resend=True), states=bytes([S, P, P]), notes={1: Note(attempts=2, unanswered=1)})
    flight = await boarded(of, dead={0: EPOCH, 1: EPOCH, 2: EPOCH})
    assert words(flight) == ["unknown", "unknown", "invalid_token"]
    assert flight.left == 0


async def test_a_dead_target_waits_for_no_retry() -> None:
    flight = await boarded(lease(2, notes={0: Note(attempts=2, retry_at=WALL + 5)}), dead={0: EPOCH})
    assert words(flight) == ["invalid_token", "pending"]
    assert (flight.waiting, flight.left) == (0, 1)


async def test_everything_at_once() -> None:
    of = lease(
        7,
        job(resend=True),
        states=bytes([A, S, P, P, S, P, R]),
        notes={
            0: Note(provider_id="p"),
            3: Note(attempts=2, retry_at=WALL + 60),
            5: Note(attempts=2, retry_at=WALL - 1),
        },
    )
    flight = await boarded(of, dead={0: EPOCH, 2: EPOCH, 4: EPOCH})
    assert words(flight) == ["accepted", "pending", "invalid_token", "pending", "unknown", "pending", "rejected"]
    assert (flight.left, flight.waiting) == (3, 2)
    assert sendable(flight) == [1]
    assert bytes(flight.lease.progress.states)[1] == State.SENT, "the columns are the queue's"


async def test_a_cancelled_job_is_known_when_its_batch_comes() -> None:
    assert (await boarded(lease(2), cancelled=True)).cancelled


async def test_a_job_that_is_cancelled_while_its_batch_comes_is_known_as_well() -> None:
    """Whoever cancels looks for flights; this one is not there yet while the dead targets are looked up."""
    cancelled = set[str]()

    class Slow(MemoryQueue):
        async def dead_targets(self, *args: object) -> dict[bytes, DeadTarget]:
            cancelled.add(of.job.id)
            return {}

    provider, of = ScriptedProvider(), lease(2)
    flight = await board(of, provider.plan, provider, Slow(), NOW, WALL, cancelled.__contains__)
    assert flight.cancelled


@pytest.mark.parametrize(("days", "milliseconds"), [(1, 86_400_000), (100, 0xFFFFFFFF)])
def test_what_nobody_wants_any_more_ends_however_old_it_is(days: int, milliseconds: int) -> None:
    of = lease(4, states=bytes([A, P, S, P]), notes={3: Note(attempts=2, unanswered=1, retry_at=WALL)})
    conclude(of, State.EXPIRED, "too late", EPOCH + days * 86_400)
    assert [State(state).word for state in of.progress.states] == ["accepted", "expired", "unknown", "unknown"]
    assert list(of.progress.milliseconds) == [0, milliseconds, milliseconds, milliseconds]
    assert of.progress.notes[3] == Note(reason="too late", attempts=2, unanswered=1)


class TestPlans:
    SETTINGS = ProviderSettings()

    def test_a_message_is_compiled_once_a_route(self) -> None:
        plans, provider, of = Plans(), ScriptedProvider(), lease()
        for _ in range(3):
            plans.get(of, provider, self.SETTINGS, ORIGIN)
        assert provider.compiled == 1
        plans.get(of, provider, self.SETTINGS, "https://other.example")
        assert provider.compiled == 2

    def test_those_in_use_are_kept(self) -> None:
        plans, provider, of = Plans(), ScriptedProvider(), lease()
        for _ in range(2 * PLANS_KEPT):
            plans.get(of, provider, self.SETTINGS, ORIGIN)
            plans.get(lease(), provider, self.SETTINGS, ORIGIN)
        assert provider.compiled == 1 + 2 * PLANS_KEPT
