"""What every `Queue` promises. A test module of an implementation subclasses `QueueContract`."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import pytest

from gateway.model import Job, Lane, Note, Route, State
from gateway.queue.base import (
    DeadTarget,
    Idempotency,
    Lease,
    LeaseLost,
    NewBatch,
    Queue,
    QueueError,
    QueueFull,
    Replay,
    Twin,
)
from gateway.queue.clock import uptime
from tests.gateway.queue.samples import APNS, FCM, NOW, ONE, WEB, batch, job, room, stored

LEASE_SECONDS = 60.0
HIGH_WATER = 2_000
SLOTS = 16

Opener = Callable[[str], Awaitable[Queue]]


class Clock:
    """The clock of leases and waits, in the hands of a test; it starts with other processes' own."""

    def __init__(self) -> None:
        self.now = uptime()

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def accept(lease: Lease) -> Lease:
    """All of it answered."""
    lease.progress.states[:] = bytes([State.ACCEPTED]) * lease.count
    return lease


def named(batch_id: bytes) -> bytes:
    """What stays of a batch's id: a queue may use 16 bits of it to say where it keeps the batch."""
    return batch_id[:12] + batch_id[14:]


class Hands:
    """A `Taker`."""

    def __init__(self, *, wanted: bool = True) -> None:
        self.wanted = wanted
        self.taken: list[Lease] = []
        self.woken = 0

    def wants(self, job: Job, batches: Sequence[NewBatch]) -> bool:
        return self.wanted

    def take(self, leases: Sequence[Lease]) -> None:
        self.taken += leases

    def wake(self) -> None:
        self.woken += 1

    def recall(self) -> None: ...

    def go_on(self) -> None: ...


class QueueContract:
    """Needs the fixture `open_queue`: an `Opener` of queues on one store, one for each holder, with the limits above,
    and the fixture `clock`, which they go by.

    `queue` is the first of them.
    """

    @pytest.fixture
    async def queue(self, open_queue: Opener) -> Queue:
        return await open_queue("first")

    # --- uploads

    async def test_invisible_until_sealed(self, queue: Queue) -> None:
        """A job that is being uploaded is not sent, and all of it becomes visible with the seal."""
        new, first, last = job(), batch(), batch(2, FCM)
        assert await queue.begin(new, None) is None
        await queue.put(new.id, [first])
        assert await queue.lease(room(), NOW) == []
        await queue.seal(new.id, [last], b"", b"{}")
        assert {named(lease.batch_id) for lease in await queue.lease(room(), NOW)} == {named(first.id), named(last.id)}

    async def test_a_lease_is_what_was_put(self, queue: Queue) -> None:
        """A lease holds the job, the columns and fresh progress."""
        put = batch(3, WEB)
        new = await stored(queue, put)
        (lease,) = await queue.lease(room(), NOW)
        assert (named(lease.batch_id), lease.job, lease.route, lease.count) == (named(put.id), new, WEB, 3)
        assert lease.columns == put.columns
        assert (lease.attempt, lease.crashes) == (1, 0)
        assert bytes(lease.progress.states) == bytes(3)
        assert lease.progress.milliseconds == array("I", [0, 0, 0])
        assert lease.progress.notes == {}

    async def test_abandoned_is_gone(self, queue: Queue) -> None:
        """An abandoned job leaves nothing: no work, no room taken, no key."""
        new, key = job(), Idempotency("key", b"f")
        await queue.begin(new, key)
        await queue.put(new.id, [batch()])
        assert (await queue.depth())[:2] == (1, 3)
        await queue.abandon(new.id)
        assert (await queue.depth())[:2] == (0, 0)
        assert await queue.lease(room(), NOW) == []
        assert await queue.begin(job(), key) is None

    async def test_put_needs_an_upload(self, queue: Queue) -> None:
        """Batches can only be added between begin and seal."""
        new = await stored(queue, batch())
        with pytest.raises(QueueError):
            await queue.put(new.id, [batch()])
        with pytest.raises(QueueError):
            await queue.seal("job_unknown", [], b"", b"{}")

    async def test_abandon_spares_what_is_sealed(self, queue: Queue) -> None:
        """A late abandon does not take back what was accepted."""
        new = await stored(queue, batch())
        await queue.abandon(new.id)
        assert len(await queue.lease(room(), NOW)) == 1

    async def test_a_job_without_batches(self, queue: Queue) -> None:
        """A job may be empty; it is finished when it is sealed."""
        new = job()
        await queue.begin(new, None)
        await queue.seal(new.id, [], b"", b"{}")
        assert await queue.lease(room(), NOW) == []
        assert await queue.cancel(new.id, NOW)

    async def test_high_water(self, queue: Queue) -> None:
        """Beyond the high-water mark nothing of the batches is stored; when some have ended there is room again."""
        await stored(queue, batch(1000), batch(1000))
        with pytest.raises(QueueFull, match="queued"):
            await stored(queue, batch(1))
        new = job()
        await queue.begin(new, None)
        with pytest.raises(QueueFull):
            await queue.put(new.id, [batch(1), batch(1)])
        assert (await queue.depth())[:2] == (2, 2000)
        lease, *_ = await queue.lease(room(), NOW)
        await queue.complete(accept(lease), [], NOW)
        await queue.seal(new.id, [batch(1)], b"", b"{}")
        assert (await queue.depth())[:2] == (2, 1001)

    # --- idempotency

    async def test_an_answered_key_is_replayed(self, queue: Queue) -> None:
        """The same key gets the first answer, whoever asks and whatever the request was."""
        new = job()
        assert await queue.submit(new, Idempotency("key", b"one"), [batch()], b"answer") is None
        replay = Replay(new.id, b"one", b"answer")
        assert await queue.submit(job(), Idempotency("key", b"two"), [batch()], b"other") == replay
        assert await queue.begin(job(), Idempotency("key", b"")) == replay
        assert (await queue.depth()).batches == 1

    async def test_a_stream_is_fingerprinted_by_its_seal(self, queue: Queue) -> None:
        """A streamed request's fingerprint is known at its end."""
        new = job()
        await queue.begin(new, Idempotency("key", b""))
        await queue.seal(new.id, [batch()], b"whole", b"answer")
        assert await queue.begin(job(), Idempotency("key", b"")) == Replay(new.id, b"whole", b"answer")

    async def test_a_twin_in_flight(self, queue: Queue, open_queue: Opener) -> None:
        """While a request is being answered, another with its key is told so, in any process."""
        await queue.begin(job(), Idempotency("key", b""))
        assert await queue.begin(job(), Idempotency("key", b"")) is Twin.IN_FLIGHT
        other = await open_queue("second")
        assert await other.submit(job(), Idempotency("key", b""), [batch()], b"") is Twin.IN_FLIGHT

    async def test_a_key_is_forgotten_after_a_day(self, queue: Queue) -> None:
        """An answered key is kept for 24 hours."""
        await queue.submit(job(), Idempotency("key", b"one"), [batch()], b"answer")
        almost = job(created_at=NOW + 86_399)
        assert isinstance(await queue.begin(almost, Idempotency("key", b"")), Replay)
        later = job(created_at=NOW + 86_401)
        assert await queue.begin(later, Idempotency("key", b"")) is None

    async def test_a_refused_job_frees_its_key(self, queue: Queue) -> None:
        """If the queue is full, nothing of the job stays, and its key may be used again."""
        key = Idempotency("key", b"")
        with pytest.raises(QueueFull):
            await queue.submit(job(), key, [batch(1000), batch(1000), batch(1)], b"")
        assert await queue.begin(job(), key) is None

    # --- handing over

    async def test_what_is_wanted_is_leased_as_it_is_stored(self, queue: Queue) -> None:
        """A job that the taker wants is its own when it is answered: nobody is woken, and nobody else gets it."""
        taker = Hands()
        queue.hand_to(taker)
        put = [batch(3, WEB), batch(2)]
        new = await stored(queue, *put)
        assert [(named(lease.batch_id), lease.job, lease.route, lease.columns) for lease in taker.taken] == [
            (named(each.id), new, each.route, each.columns) for each in put
        ]
        assert [(lease.count, lease.attempt, lease.crashes) for lease in taker.taken] == [(3, 1, 0), (2, 1, 0)]
        assert [bytes(lease.progress.states) for lease in taker.taken] == [bytes(3), bytes(2)]
        assert taker.woken == 0
        assert await queue.lease(room(), NOW) == []
        for lease in taker.taken:
            await queue.complete(accept(lease), [], NOW)
        assert (await queue.depth())[:2] == (0, 0)

    async def test_what_is_not_wanted_is_for_everybody(self, queue: Queue) -> None:
        """The taker is told that there is something to lease. About a stream's job it is not asked."""
        taker = Hands(wanted=False)
        queue.hand_to(taker)
        await stored(queue, batch())
        assert (taker.taken, taker.woken) == ([], 1)
        taker.wanted = True
        new = job()
        await queue.begin(new, None)
        await queue.seal(new.id, [batch()], b"", b"{}")
        assert (taker.taken, taker.woken) == ([], 2)
        assert len(await queue.lease(room(), NOW)) == 2

    async def test_what_is_not_due_is_handed_to_nobody(self, queue: Queue) -> None:
        """Neither a job for later, nor one whose ordering key is taken, nor a repeat of a request."""
        taker = Hands()
        queue.hand_to(taker)
        await stored(queue, batch(), deliver_at=time.time() + 60)
        await stored(queue, batch(), key="k")
        await stored(queue, batch(), key="k")
        assert len(taker.taken) == 1
        for _ in range(2):
            await queue.submit(job(), Idempotency("key", b""), [batch()], b"")
        assert len(taker.taken) == 2

    async def test_there_is_a_place_for_all_of_a_job_or_none(self, queue: Queue) -> None:
        """No more is handed over than can be recorded, and a job is not torn apart."""
        taker = Hands()
        queue.hand_to(taker)
        await stored(queue, *[batch(1) for _ in range(SLOTS - 1)])
        await stored(queue, batch(1), batch(1))
        assert (len(taker.taken), taker.woken) == (SLOTS - 1, 1)
        await stored(queue, batch(1))
        assert len(taker.taken) == SLOTS

    # --- the order of leases

    async def test_transactional_first(self, queue: Queue) -> None:
        """The transactional lane is emptied before the promotional one is looked at."""
        await stored(queue, batch(), batch())
        urgent = await stored(queue, batch(), lane=Lane.TRANSACTIONAL)
        (lease,) = await queue.lease(room(batches=1), NOW)
        assert lease.job.id == urgent.id

    async def test_not_before_it_is_due(self, queue: Queue) -> None:
        """A job with `deliver_at` waits for it, and what was taken in first goes first of what is due."""
        first = await stored(queue, batch(), deliver_at=NOW + 20)
        second = await stored(queue, batch(), deliver_at=NOW + 10)
        assert await queue.lease(room(), NOW + 9) == []
        assert (await queue.depth()).oldest_due is None
        assert [lease.job.id for lease in await queue.lease(room(batches=0), NOW + 10)] == []
        assert (await queue.depth()).oldest_due == NOW + 10
        assert [lease.job.id for lease in await queue.lease(room(), NOW + 20)] == [first.id, second.id]

    @pytest.mark.parametrize("jump", [-86_400.0, -600.0, 86_400.0])
    async def test_setting_the_wall_clock_moves_no_lease(self, queue: Queue, open_queue: Opener, jump: float) -> None:
        """What is held stays held, what is ready stays ready, and what was put off stays put off."""
        other = await open_queue("second")
        await stored(queue, batch(), batch())
        (held,) = await queue.lease(room(batches=1), NOW)
        (ready,) = await other.lease(room(), NOW + jump)
        await other.defer(ready, 5.0, [], NOW + jump)
        assert await other.lease(room(), NOW + jump) == []
        await queue.complete(accept(held), [], NOW + jump)

    async def test_schedules_go_by_the_wall_clock(self, queue: Queue, clock: Clock) -> None:
        """However long the machine runs meanwhile: a corrected clock corrects what was scheduled."""
        await stored(queue, batch(), deliver_at=NOW + 10)
        clock.advance(3600.0)
        assert await queue.lease(room(), NOW + 9) == []
        assert len(await queue.lease(room(), NOW + 10)) == 1

    async def test_fair_over_routes(self, queue: Queue) -> None:
        """A route with much older work does not starve the others."""
        await stored(queue, *(batch(1, APNS) for _ in range(10)))
        await stored(queue, batch(1, FCM), batch(1, WEB), deliver_at=NOW + 1)
        leases = await queue.lease(room(batches=3), NOW + 1)
        assert {lease.route for lease in leases} == {APNS, FCM, WEB}

    async def test_what_is_held_counts(self, queue: Queue) -> None:
        """`per_route` bounds held and new batches of a route; those who hold less are served first."""
        await stored(queue, *(batch(1, APNS) for _ in range(5)), *(batch(1, FCM) for _ in range(5)))
        leases = await queue.lease(room(per_route=3 * ONE, apns=2 * ONE), NOW)
        assert sorted(lease.route.provider for lease in leases) == ["apns", "fcm", "fcm", "fcm"]
        await stored(queue, batch(1, WEB))
        (lease,) = await queue.lease(room(batches=1, apns=ONE, fcm=3 * ONE), NOW)
        assert lease.route == WEB

    async def test_a_full_route_takes_transactional_work(self, queue: Queue) -> None:
        """However much of a campaign is held, a one-time code is leased at once."""
        await stored(queue, *(batch(1, APNS) for _ in range(5)))
        urgent = [await stored(queue, batch(1, APNS), lane=Lane.TRANSACTIONAL) for _ in range(3)]
        leases = await queue.lease(room(batches=8, per_route=2 * ONE, apns=2 * ONE), NOW)
        assert [lease.job.id for lease in leases] == [new.id for new in urgent]

    async def test_campaigns_take_no_more_than_their_part(self, queue: Queue) -> None:
        """Of all that may be held a part is kept for transactional work, however many routes have campaigns."""
        await stored(queue, *(batch(1, route) for route in (APNS, FCM, WEB)))
        urgent = await stored(queue, batch(1, WEB), lane=Lane.TRANSACTIONAL)
        capacity = {Lane.TRANSACTIONAL: 9 * ONE, Lane.PROMOTIONAL: 4 * ONE}  # an app that is alone gets half
        leases = await queue.lease(room()._replace(capacity=capacity), NOW)
        assert [lease.job.id == urgent.id for lease in leases] == [True, False, False]

    async def test_apps_share_by_weight(self, queue: Queue) -> None:
        """Deliveries are shared by weight, whatever sizes of batches they come in and however many routes."""
        await stored(queue, *(batch(10, Route("shop", "webpush", f"https://{n}.example")) for n in range(60)))
        await stored(queue, *(batch(10, APNS) for _ in range(60)))
        await stored(queue, *(batch(10, Route("bank", "apns")) for _ in range(60)), app="bank")
        leases = await queue.lease(room(batches=12, weights={"shop": 1.0, "bank": 3.0}), NOW)
        assert Counter(lease.route.app for lease in leases) == {"shop": 3, "bank": 9}

    async def test_nobody_takes_all_there_is(self, queue: Queue) -> None:
        """However much one app has waiting, another finds room."""
        await stored(queue, *(batch(1, APNS) for _ in range(SLOTS)))
        capacity = dict.fromkeys(Lane, 8 * ONE)
        mine = await queue.lease(room()._replace(capacity=capacity), NOW)
        assert len(mine) == 4
        await stored(queue, batch(1, Route("bank", "apns")), app="bank")
        more = await queue.lease(room(apns=4 * ONE)._replace(capacity=capacity), NOW)
        assert [lease.route.app for lease in more] == ["bank"]

    async def test_campaigns_never_starve(self, queue: Queue) -> None:
        """However much transactional work there is, each lease takes something of a campaign."""
        await stored(queue, *(batch(1) for _ in range(SLOTS)), lane=Lane.TRANSACTIONAL)
        await stored(queue, batch(1), batch(1))
        leases = await queue.lease(room(batches=SLOTS), NOW)
        assert Counter(lease.job.lane for lease in leases) == {Lane.TRANSACTIONAL: SLOTS - 1, Lane.PROMOTIONAL: 1}

    async def test_closed_routes_take_nothing(self, queue: Queue) -> None:
        """Work of a closed route stays where it is."""
        await stored(queue, batch(1, APNS), batch(1, FCM))
        (lease,) = await queue.lease(room(closed=(APNS,)), NOW)
        assert lease.route == FCM

    async def test_hundreds_of_routes(self, queue: Queue) -> None:
        """However many routes have work, each gets its turn."""
        routes = [Route("shop", "webpush", f"https://push-{number}.example") for number in range(300)]
        await stored(queue, *(batch(1, route) for route in routes for _ in range(2)))
        turns: Counter[Route] = Counter()
        for _ in range(2 * 300 // SLOTS + 10):
            for lease in await queue.lease(room(batches=SLOTS, per_route=ONE), NOW):
                turns[lease.route] += 1
                await queue.complete(accept(lease), [], NOW)
        assert turns == dict.fromkeys(routes, 2)

    async def test_hundreds_of_closed_routes(self, queue: Queue) -> None:
        """However many routes are closed, an open one behind them gets its turn within a few leases."""
        closed = tuple(Route("shop", "webpush", f"https://push-{number}.example") for number in range(600))
        await stored(queue, *(batch(1, route) for route in closed))
        await stored(queue, batch(1, FCM), deliver_at=NOW + 1)
        for _ in range(4):
            leases = await queue.lease(room(closed=closed), NOW + 1)
            if leases:
                break
        assert [lease.route for lease in leases] == [FCM]

    async def test_held_by_one_at_a_time(self, queue: Queue, open_queue: Opener) -> None:
        """Two holders on one store never get the same batch."""
        other = await open_queue("second")
        await stored(queue, *(batch(1) for _ in range(10)))
        mine = await queue.lease(room(batches=5), NOW)
        theirs = await other.lease(room(), NOW)
        assert len({lease.batch_id for lease in mine + theirs}) == 10
        assert await queue.lease(room(), NOW) == []

    # --- ordering keys

    async def test_one_after_the_other(self, queue: Queue, open_queue: Opener) -> None:
        """The next job of a key is leased when nothing of the one before it is left, whoever held that."""
        other = await open_queue("second")
        jobs = [await stored(queue, batch(1), batch(1, FCM), key="a") for _ in range(3)]
        for each in jobs:
            first, second = await queue.lease(room(), NOW)
            assert first.job.id == second.job.id == each.id
            assert await other.lease(room(), NOW) == []
            await queue.complete(accept(first), [], NOW)
            assert await other.lease(room(), NOW) == []
            await queue.complete(accept(second), [], NOW)
        assert await queue.depth() == (0, 0, None)

    async def test_other_keys_and_none_wait_for_nobody(self, queue: Queue) -> None:
        """A key holds back its own app's jobs with the same key, and nobody else."""
        first = await stored(queue, batch(1), key="a")
        await stored(queue, batch(1), key="a")
        free = [
            await stored(queue, batch(1), key="b"),
            await stored(queue, batch(1, Route("bank", "apns")), key="a", app="bank"),
            await stored(queue, batch(1)),
            await stored(queue, batch(1)),
        ]
        leased = {lease.job.id for lease in await queue.lease(room(), NOW)}
        assert leased == {first.id, *(job.id for job in free)}

    async def test_a_retry_holds_back_its_key(self, queue: Queue, clock: Clock) -> None:
        """What is put off goes on holding back the jobs behind it, whatever their class."""
        await stored(queue, batch(1), key="a")
        await stored(queue, batch(1), key="a", lane=Lane.TRANSACTIONAL)
        (lease,) = await queue.lease(room(), NOW)
        await queue.defer(lease, 30.0, [], NOW)
        clock.advance(29.0)
        assert await queue.lease(room(), NOW + 29) == []
        clock.advance(1.0)
        (again,) = await queue.lease(room(), NOW + 30)
        assert again.batch_id == lease.batch_id
        await queue.complete(accept(again), [], NOW + 30)
        assert len(await queue.lease(room(), NOW + 30)) == 1

    async def test_a_scheduled_job_holds_back_its_key(self, queue: Queue) -> None:
        """The order is that of the answers, not of the due times."""
        await stored(queue, batch(1), key="a", deliver_at=NOW + 60)
        await stored(queue, batch(1), key="a")
        assert await queue.lease(room(), NOW + 59) == []
        assert len(await queue.lease(room(), NOW + 60)) == 1

    async def test_earlier_is_what_was_sealed_earlier(self, queue: Queue) -> None:
        """A long upload is behind a job that was answered before it ended."""
        slow = job(key="a")
        await queue.begin(slow, None)
        quick = await stored(queue, batch(1), key="a")
        await queue.seal(slow.id, [batch(1)], b"", b"{}")
        (lease,) = await queue.lease(room(), NOW)
        assert lease.job.id == quick.id
        await queue.complete(accept(lease), [], NOW)
        (lease,) = await queue.lease(room(), NOW)
        assert lease.job.id == slow.id

    async def test_a_job_without_batches_holds_back_nobody(self, queue: Queue) -> None:
        """It ended with its seal."""
        await stored(queue, key="a")
        await stored(queue, batch(1), key="a")
        assert len(await queue.lease(room(), NOW)) == 1

    async def test_a_cancelled_job_lets_the_next_one_go(self, queue: Queue) -> None:
        """Wherever it is in the line: the first while it waits or is held, or one in the middle."""
        first, second, third, fourth = [await stored(queue, batch(1), batch(1), key="a") for _ in range(4)]
        await queue.cancel(second.id, NOW)
        held, waiting = await queue.lease(room(), NOW)
        assert held.job.id == waiting.job.id == first.id
        await queue.defer(waiting, 0.0, [], NOW)
        await queue.cancel(first.id, NOW)
        assert await queue.lease(room(), NOW) == []
        held.progress.states[:] = bytes([State.CANCELLED])
        await queue.complete(held, [], NOW)
        assert {lease.job.id for lease in await queue.lease(room(), NOW)} == {third.id}
        await queue.cancel(fourth.id, NOW)
        assert (await queue.depth())[:2] == (2, 2)

    async def test_a_takeover_keeps_the_order(self, queue: Queue, open_queue: Opener, clock: Clock) -> None:
        """What a silent holder had goes first, to whoever takes it over."""
        other = await open_queue("second")
        first, _ = [await stored(queue, batch(1), key="a") for _ in range(2)]
        await queue.lease(room(), NOW)
        clock.advance(LEASE_SECONDS)
        (taken,) = await other.lease(room(), NOW)
        assert taken.job.id == first.id
        await other.complete(accept(taken), [], NOW)
        assert len(await queue.lease(room(), NOW)) == 1

    # --- progress

    async def test_complete_ends_it(self, queue: Queue, clock: Clock) -> None:
        """A complete batch is not seen again, and takes no more room."""
        await stored(queue, batch())
        (lease,) = await queue.lease(room(), NOW)
        await queue.complete(accept(lease), [], NOW + 1)
        assert await queue.depth() == (0, 0, None)
        clock.advance(10 * LEASE_SECONDS)
        assert await queue.lease(room(), NOW + 10 * LEASE_SECONDS) == []
        with pytest.raises(LeaseLost):
            await queue.complete(lease, [], NOW + 2)

    async def test_complete_means_terminal(self, queue: Queue) -> None:
        """A batch with a delivery that has no receipt cannot be completed."""
        await stored(queue, batch(2))
        (lease,) = await queue.lease(room(), NOW)
        lease.progress.states[0] = State.ACCEPTED
        with pytest.raises(QueueError, match="terminal"):
            await queue.complete(lease, [], NOW)
        accept(lease)
        await queue.complete(lease, [], NOW)

    async def test_defer_keeps_the_columns(self, queue: Queue, clock: Clock) -> None:
        """A deferred batch comes back when its time has come, as it was given back, with the next attempt number."""
        await stored(queue, batch(3))
        (lease,) = await queue.lease(room(), NOW)
        lease.progress.states[0] = State.ACCEPTED
        lease.progress.milliseconds[0] = 1234
        lease.progress.notes[1] = Note("busy", 2, retry_at=NOW + 30)
        await queue.defer(lease, 30.0, [], NOW)
        clock.advance(29.0)
        assert await queue.lease(room(), NOW + 29) == []
        clock.advance(1.0)
        (again,) = await queue.lease(room(), NOW + 30)
        assert (again.attempt, again.crashes) == (2, 0)
        assert bytes(again.progress.states) == bytes([State.ACCEPTED, 0, 0])
        assert list(again.progress.milliseconds) == [1234, 0, 0]
        assert again.progress.notes == {1: Note("busy", 2, retry_at=NOW + 30)}

    async def test_a_verdict_stays(self, queue: Queue) -> None:
        """Once stored, a terminal state cannot be changed, and the attempt to do so changes nothing."""
        await stored(queue, batch(2))
        (lease,) = await queue.lease(room(), NOW)
        lease.progress.states[0] = State.ACCEPTED
        await queue.checkpoint(lease, [], NOW)
        for state in (State.REJECTED, State.PENDING):
            lease.progress.states[0] = state
            with pytest.raises(QueueError, match="receipt"):
                await queue.checkpoint(lease, [], NOW)
        lease.progress.states[0] = State.ACCEPTED
        await queue.defer(lease, 0.0, [], NOW)
        (again,) = await queue.lease(room(), NOW)
        assert bytes(again.progress.states) == bytes([State.ACCEPTED, State.PENDING])

    async def test_columns_have_the_batchs_length(self, queue: Queue) -> None:
        """Columns of another length are refused."""
        await stored(queue, batch(2))
        (lease,) = await queue.lease(room(), NOW)
        lease.progress.milliseconds = array("I", [1])
        lease.progress.states[0] = State.SENT
        with pytest.raises(QueueError, match="long"):
            await queue.checkpoint(lease, [], NOW)

    async def test_checkpoint_extends(self, queue: Queue, open_queue: Opener, clock: Clock) -> None:
        """A lease lasts from its last checkpoint."""
        other = await open_queue("second")
        await stored(queue, batch())
        (lease,) = await queue.lease(room(), NOW)
        clock.advance(LEASE_SECONDS - 1)
        await queue.checkpoint(lease, [], NOW)
        clock.advance(LEASE_SECONDS - 1)
        assert await other.lease(room(), NOW) == []
        clock.advance(1)
        assert len(await other.lease(room(), NOW)) == 1

    async def test_a_late_holder_is_refused(self, queue: Queue, open_queue: Opener, clock: Clock) -> None:
        """After another got the batch, whatever the first says changes nothing."""
        other = await open_queue("second")
        await stored(queue, batch(2))
        (lease,) = await queue.lease(room(), NOW)
        clock.advance(LEASE_SECONDS)
        (taken,) = await other.lease(room(), NOW)
        assert (taken.attempt, taken.crashes) == (lease.attempt + 1, 1)
        dead = [DeadTarget(b"token-0", NOW, "gone")]
        accept(lease)
        with pytest.raises(LeaseLost):
            await queue.checkpoint(lease, dead, NOW)
        with pytest.raises(LeaseLost):
            await queue.defer(lease, 0.0, dead, NOW)
        with pytest.raises(LeaseLost):
            await queue.complete(lease, dead, NOW)
        assert await queue.dead_targets(APNS, [b"token-0"]) == {}
        await other.defer(taken, 0.0, [], NOW)
        (again,) = await other.lease(room(), NOW)
        assert State.ACCEPTED not in bytes(again.progress.states)

    async def test_silence_leaves_nothing_pending(self, queue: Queue, open_queue: Opener, clock: Clock) -> None:
        """What a holder has that fell silent may be on its way: nothing of it is sent as if it were fresh."""
        other = await open_queue("second")
        await stored(queue, batch(3))
        (lease,) = await queue.lease(room(), NOW)
        lease.progress.states[0] = State.ACCEPTED
        await queue.checkpoint(lease, [], NOW)
        clock.advance(LEASE_SECONDS)
        (taken,) = await other.lease(room(), NOW)
        assert bytes(taken.progress.states) == bytes([State.ACCEPTED, State.SENT, State.SENT])

    async def test_closing_gives_back(self, queue: Queue, open_queue: Opener) -> None:
        """A holder that closes its queue leaves its batches to the others at once, exactly as they are."""
        other = await open_queue("second")
        await stored(queue, batch(3))
        (lease,) = await queue.lease(room(), NOW)
        lease.progress.states[0] = State.SENT
        await queue.close()
        (taken,) = await other.lease(room(), NOW)
        assert bytes(taken.progress.states) == bytes([State.SENT, State.PENDING, State.PENDING])

    # --- cancelling

    async def test_cancel_what_waits(self, queue: Queue) -> None:
        """A cancelled job's work is gone at once, also what is far from due."""
        new = await stored(queue, batch(), batch(), deliver_at=NOW + 1e6)
        assert await queue.cancel(new.id, NOW)
        assert await queue.depth() == (0, 0, None)
        assert await queue.lease(room(), NOW + 2e6) == []

    async def test_cancel_knows_its_jobs(self, queue: Queue) -> None:
        """There is nothing to cancel of a job that does not exist or is not sealed; twice is as good as once."""
        new = job()
        await queue.begin(new, None)
        assert not await queue.cancel(new.id, NOW)
        assert not await queue.cancel("job_unknown", NOW)
        await queue.seal(new.id, [batch()], b"", b"{}")
        assert await queue.cancel(new.id, NOW)
        assert await queue.cancel(new.id, NOW)

    async def test_holders_learn_of_cancellations(self, queue: Queue, open_queue: Opener) -> None:
        """Who holds a batch of a cancelled job learns it by the feed and ends it; each job is told once a cursor."""
        other = await open_queue("second")
        first, second = await stored(queue, batch()), await stored(queue, batch())
        leases = await other.lease(room(), NOW)
        await queue.cancel(first.id, NOW)
        cursor, ids = await other.cancelled(0)
        assert ids == [first.id]
        await queue.cancel(second.id, NOW)
        cursor, ids = await other.cancelled(cursor)
        assert ids == [second.id]
        assert await other.cancelled(cursor) == (cursor, [])
        for lease in leases:
            lease.progress.states[:] = bytes([State.CANCELLED]) * lease.count
            await other.complete(lease, [], NOW)
        assert await queue.depth() == (0, 0, None)

    async def test_a_cancelled_jobs_batch_given_back_ends(self, queue: Queue) -> None:
        """Nobody gets a batch of a cancelled job again."""
        new = await stored(queue, batch())
        (lease,) = await queue.lease(room(), NOW)
        await queue.cancel(new.id, NOW)
        await queue.defer(lease, 0.0, [], NOW)
        assert await queue.lease(room(), NOW) == []
        assert await queue.depth() == (0, 0, None)

    # --- dead targets

    async def test_dead_targets(self, queue: Queue, open_queue: Opener) -> None:
        """A verdict is known to all, by app and provider."""
        await stored(queue, batch(2))
        (lease,) = await queue.lease(room(), NOW)
        verdict = DeadTarget(b"token-0", NOW - 5, "Unregistered")
        await queue.checkpoint(lease, [verdict], NOW)
        other = await open_queue("second")
        for each in (queue, other):
            assert await each.dead_targets(APNS, [b"token-0", b"token-1"]) == {b"token-0": verdict}
            assert await each.dead_targets(FCM, [b"token-0"]) == {}
            assert await each.dead_targets(Route("bank", "apns"), [b"token-0"]) == {}

    async def test_the_latest_verdict_counts(self, queue: Queue) -> None:
        """A verdict about a later time replaces an earlier one, never the other way."""
        await stored(queue, batch(2))
        (lease,) = await queue.lease(room(), NOW)
        for since in (NOW, NOW - 9, NOW + 9, NOW + 3):
            await queue.checkpoint(lease, [DeadTarget(b"token-0", since, f"{since}")], NOW)
        expected = DeadTarget(b"token-0", NOW + 9, f"{NOW + 9}")
        assert await queue.dead_targets(APNS, [b"token-0"]) == {b"token-0": expected}
