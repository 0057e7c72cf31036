"""A route's way out, between a pool and a dispatcher that are the test."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
from collections import Counter, deque

import pytest

from gateway.dispatch import breaker as breaker_rules
from gateway.dispatch.breaker import Cause
from gateway.dispatch.budget import BURST
from gateway.dispatch.governor import LEAST_STEP
from gateway.dispatch.retry import TRIES_IN_DOUBT, Limits
from gateway.dispatch.sender import DEFER_AFTER, HELD_BACK_PATIENCE
from gateway.http2.connection import Requests
from gateway.http2.results import Answer, Results, Run
from gateway.model import Lane, Note, State
from gateway.queue.base import BATCH_LOAD, DeadTarget
from providers.base import Alike, Headers, Outcome, Rendered, Rows, Scope, Verdict
from tests.gateway.dispatch.scripted import Bench, flight, job, lease, targets, words
from tests.gateway.virtual import EPOCH

REJECTED = Outcome(verdict=Verdict.REJECTED, reason="no")
LOOPS = ("virtual",)

REFUSED_ALONE = Outcome(verdict=Verdict.THROTTLED, reason="device", scope=Scope.TARGET, retry_after=4.0)
THROTTLED = Outcome(verdict=Verdict.THROTTLED, reason="slow", retry_after=5.0)
UNAVAILABLE = Outcome(verdict=Verdict.UNAVAILABLE, reason="down")
EXPIRED_CREDENTIAL = Outcome(verdict=Verdict.CREDENTIAL, reason="old", remint=True, scope=Scope.CREDENTIAL)
START = EPOCH + 1000.0
"""UNIX seconds when a test begins."""


def bad_token() -> Outcome:
    return Outcome(Verdict.UNREGISTERED, "bad", dead_since=START, ambiguous=True)


def dead(since: float | None = None) -> Outcome:
    return Outcome(verdict=Verdict.UNREGISTERED, reason="gone", dead_since=since)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def pass_time(bench: Bench, seconds: float) -> None:
    """With a tick at the end, as the dispatcher's."""
    await asyncio.sleep(seconds)
    loop = asyncio.get_running_loop()
    bench.sender.tick(loop.time(), EPOCH + loop.time())


class TestTaking:
    """What a connection with room gets."""

    async def test_a_slice_carries_everything_of_its_deliveries(self, bench: Bench) -> None:
        batch = bench.add(3)
        requests = bench.taken()
        assert requests.head.fixed[-1] == (b"authorization", b"0")
        assert requests.fields[0] == [b"/t0", b"/t1", b"/t2"]
        assert requests.fields[1] == batch.rows(range(3)).ids
        assert requests.bodies == [b"t0:n0", b"t1:n1", b"t2:n2"]
        assert requests.tags == [(batch, 0), (batch, 1), (batch, 2)]

    async def test_everything_goes_once_and_is_finished_when_all_is_answered(self, bench: Bench) -> None:
        batch = bench.add(5)
        first, second = bench.taken(3), bench.taken(3)
        assert targets(first) + targets(second) == [b"t0", b"t1", b"t2", b"t3", b"t4"]
        assert bench.take() is None
        bench.accept(first)
        assert not bench.finished
        bench.accept(second)
        assert bench.finished == [batch]
        assert words(batch) == ["accepted"] * 5
        assert list(batch.milliseconds) == [1_000_000] * 5
        assert bench.on_wire == 0

    async def test_a_window_limits_by_the_largest_body_of_the_last_slice(self, bench: Bench) -> None:
        bench.plan.padding = bytes(1000)
        bench.add(50)
        assert len(bench.taken(2).tags) == 2
        assert len(bench.taken(100, 10_500).tags) == 10
        assert len(bench.taken(100, 500).tags) == 1, "one that is larger than the window goes in parts"

    async def test_a_plan_limits_its_slices(self, bench: Bench) -> None:
        bench.plan.slice = 7
        bench.add(50)
        assert len(bench.taken().tags) == 7

    async def test_the_rate_limits_a_route(self) -> None:
        bench = Bench(rate=100.0)
        bench.add(200)
        assert len(bench.taken(1000).tags) == 25, "a burst"
        assert bench.take() is None
        await asyncio.sleep(0.1)
        assert len(bench.taken(1000).tags) == 10

    async def test_what_did_not_fit_costs_no_rate_and_goes_next(self) -> None:
        bench = Bench(rate=100.0)
        batch = bench.add(200)
        requests = bench.taken(20)
        bench.sender.give_back(requests.tags[5:])
        assert bench.on_wire == batch.on_wire == 5
        assert targets(bench.taken(1000)) == [b"t%d" % index for index in range(5, 20)]
        assert len(bench.taken(1000).tags) == 5, "25 in all"

    async def test_without_a_credential_nothing_is_taken_out(self, bench: Bench) -> None:
        batch = bench.add(3)
        bench.credential.signed = None
        assert bench.take() is None
        assert words(batch) == ["pending"] * 3
        bench.credential.signed = ()
        assert len(bench.taken().tags) == 3

    async def test_finished_deliveries_make_room_before_their_batch_is_done(self, bench: Bench) -> None:
        """One in ten that is throttled would otherwise hold up a campaign for as long as it has to wait."""
        batch = bench.add(1000)
        assert bench.sender.in_hand[batch.job.lane] == 1000 + BATCH_LOAD
        for part in range(4):
            requests = bench.taken(1000)
            late = slice(0, 5 if part == 0 else 0)
            bench.answer(requests._replace(tags=requests.tags[late]), REFUSED_ALONE)
            bench.accept(requests._replace(tags=requests.tags[late.stop :]))
        await pass_time(bench, 0.1)
        assert bench.sender.in_hand[batch.job.lane] == 5 + BATCH_LOAD
        bench.sender.remove(batch)
        assert bench.sender.in_hand[batch.job.lane] == 0

    async def test_retries_of_several_batches_of_a_job_go_in_one_slice(self, bench: Bench) -> None:
        """A slice costs whatever is in it, and each batch has a few."""
        campaign, other = job(), job()
        batches = [bench.add(10, of=lease(10, campaign)) for _ in range(3)] + [bench.add(10, of=lease(10, other))]
        for _ in batches:
            requests = bench.taken(10)
            bench.answer(requests._replace(tags=requests.tags[:2]), UNAVAILABLE)
            bench.accept(requests._replace(tags=requests.tags[2:]))
        assert bench.take() is None
        await pass_time(bench, 2.0)
        together = bench.taken()
        assert [batch for batch, _ in together.tags] == [batch for batch in batches[:3] for _ in range(2)]
        assert targets(together) == [b"t%d" % index for _, index in together.tags]
        assert together.fields[1] == [batch.rows([index]).ids[0] for batch, index in together.tags]
        assert together.bodies == [b"t%d:n%d" % (index, index) for _, index in together.tags]
        assert [batch for batch, _ in bench.taken().tags] == [batches[3]] * 2, "another message has another head"
        assert bench.take() is None

    async def test_what_goes_in_one_slice_keeps_to_streams_window_and_rate(self) -> None:
        bench = Bench(rate=100.0)
        campaign = job()
        for _ in range(20):
            bench.add(3, of=lease(3, campaign))
        assert len(bench.taken(7).tags) == 7
        bench.accept(bench.taken(2))
        bench.plan.padding = bytes(507)
        assert len(bench.taken(100, 5 * 512).tags) == 5
        assert bench.on_wire == 12
        while bench.take() is not None:
            pass
        assert bench.on_wire == 25 - 2, "a burst, of which two are answered"

    async def test_when_stopped_it_gives_nothing(self, bench: Bench) -> None:
        bench.add(3)
        bench.sender.stopped = True
        assert bench.take() is None
        assert not bench.sender.backlog

    async def test_backlog_says_whether_there_is_something_to_take(self, bench: Bench) -> None:
        assert not bench.sender.backlog
        bench.add(3)
        assert bench.sender.backlog
        requests = bench.taken()
        assert not bench.sender.backlog
        bench.refuse(requests)
        assert bench.sender.backlog


class TestLanes:
    async def test_a_one_time_code_goes_between_two_slices_of_a_campaign(self, bench: Bench) -> None:
        campaign = bench.add(100)
        assert bench.taken(10).tags[0][0] is campaign
        code = bench.add(1, of=lease(1, job(lane=Lane.TRANSACTIONAL)))
        assert bench.taken(10).tags == [(code, 0)]
        assert bench.taken(10).tags[0][0] is campaign

    async def test_a_retried_one_time_code_goes_before_a_campaign(self, bench: Bench) -> None:
        code = bench.add(1, of=lease(1, job(lane=Lane.TRANSACTIONAL)))
        requests = bench.taken()
        bench.add(100)
        bench.refuse(requests)
        assert bench.taken(10).tags == [(code, 0)]

    async def test_batches_of_a_lane_go_in_the_order_of_arrival(self, bench: Bench) -> None:
        first, second = bench.add(2), bench.add(2)
        assert [bench.taken(2).tags[0][0], bench.taken(2).tags[0][0]] == [first, second]


class TestRejectedBeforeSending:
    async def test_only_the_rejected_ones_stay_behind(self, bench: Bench) -> None:
        bench.plan.reject = lambda target: "too large" if target in (b"t0", b"t2") else None
        batch = bench.add(4)
        requests = bench.taken()
        assert (targets(requests), requests.bodies) == ([b"t1", b"t3"], [b"t1:n1", b"t3:n3"])
        assert [tag[1] for tag in requests.tags] == [1, 3]
        assert words(batch) == ["rejected", "sent", "rejected", "sent"]
        assert batch.notes[0].reason == "too large"
        assert bench.on_wire == 2

    async def test_a_batch_of_nothing_else_is_finished_and_the_next_one_is_taken(self, bench: Bench) -> None:
        bench.plan.reject = lambda target: "too large"
        batch = bench.add(3)
        assert bench.take() is None
        assert bench.finished == [batch]
        assert bench.on_wire == 0

    async def test_they_cost_no_rate(self) -> None:
        bench = Bench(rate=100.0)
        bench.plan.reject = lambda target: "too large" if int(target[1:]) < 20 else None
        bench.add(100)
        assert len(bench.taken().tags) == 5
        assert len(bench.taken().tags) == 20


class TestPoison:
    """A plan that raises."""

    async def test_the_batch_is_handed_over_whole_and_the_next_one_goes(self, bench: Bench) -> None:
        poisoned, good = bench.add(3), flight(count=2)
        bench.sender.add(good)
        bench.plan.crash = ZeroDivisionError()
        assert bench.taken().tags == [(good, 0), (good, 1)]
        assert bench.failed == [(poisoned, bench.plan.crash)]
        assert bytes(poisoned.lease.progress.states) == bytes(3), "none of it was sent"
        assert bench.on_wire == 2

    async def test_what_of_it_is_on_the_wire_stays_sent(self, bench: Bench) -> None:
        poisoned = bench.add(3)
        requests = bench.taken(1)
        bench.plan.crash = ZeroDivisionError()
        assert bench.take() is None
        assert bytes(poisoned.lease.progress.states) == bytes([State.SENT, 0, 0])
        bench.accept(requests)
        assert bench.on_wire == 0
        assert not bench.finished

    @pytest.mark.parametrize("crash", [None, ZeroDivisionError()])
    async def test_while_it_is_rendered_its_lease_says_so(self, bench: Bench, crash: Exception | None) -> None:
        """So that a process's death is put down to the batch that it was at work on; and only as long as it is."""
        batches, marks = [bench.add(3), bench.add(3)], []
        render = bench.plan.render

        def watched(rows: Rows, now: float) -> Rendered:
            marks.append([batch.lease.at_work[0] for batch in batches])
            if crash is not None:
                raise crash
            return render(rows, now)

        bench.plan.render = watched  # type: ignore[method-assign]
        for _ in batches:
            bench.take()
            assert [batch.lease.at_work[0] for batch in batches] == [0, 0]
        assert marks == [[1, 0], [0, 1]]

    async def test_an_answer_that_raises_takes_no_other_with_it(self, bench: Bench) -> None:
        batch = bench.add(2)
        requests = bench.taken()
        bench.plan.outcomes = {}  # a KeyError
        bench.answer(requests, REJECTED)
        assert words(batch) == ["rejected"] * 2
        other = bench.add(2)
        requests = bench.taken()
        del bench.plan.outcomes[b"this"]
        bench.sender.settle(_answers(requests))
        assert words(other) == ["unknown"] * 2
        assert bench.on_wire == 0


def _answers(requests: Requests) -> Results:
    results = Results()
    results.answers = [Answer(tag, 500, (), b"what") for tag in requests.tags]
    return results


def _alike(requests: Requests, bodies: list[bytes]) -> Results:
    results = Results()
    headers = ((b":status", b"200"), (b"date", b"now"))
    results.answers = [Run(list(requests.tags), Alike(200, headers, -1, [b""] * len(bodies), bodies))]
    return results


class TestAnswersThatAreAlike:
    async def test_accepted_ones_are_settled_together_and_keep_their_ids(self, bench: Bench) -> None:
        one, two = bench.add(2), bench.add(2)
        bench.plan.outcomes |= {b"%d" % n: Outcome(Verdict.ACCEPTED, provider_id=f"p{n}") for n in range(3)}
        requests = bench.taken(2)
        requests.tags.extend(bench.taken(2).tags)
        bench.sender.settle(_alike(requests, [b"0", b"1", b"2", b""]))
        assert words(one) == words(two) == ["accepted"] * 2
        assert one.notes == {0: Note(provider_id="p0"), 1: Note(provider_id="p1")}
        assert two.notes == {0: Note(provider_id="p2")}, "without an id there is nothing to note"
        assert bench.finished == [one, two]
        assert bench.on_wire == 0
        assert bench.sender.dated is not None
        assert bench.sender.dated[0][1] == (b"date", b"now")

    async def test_an_id_is_added_to_what_was_noted_before(self, bench: Bench) -> None:
        batch = bench.add(1)
        bench.answer(bench.taken(), THROTTLED)
        await pass_time(bench, 7.0)
        bench.plan.outcomes[b"0"] = Outcome(Verdict.ACCEPTED, provider_id="p0")
        bench.sender.settle(_alike(bench.taken(), [b"0"]))
        assert (batch.notes[0].attempts, batch.notes[0].provider_id) == (2, "p0")

    async def test_where_one_is_not_plainly_accepted_each_is_judged(self, bench: Bench) -> None:
        batch = bench.add(3)
        bench.plan.outcomes |= {b"no": REJECTED, b"ok": Outcome(Verdict.ACCEPTED, provider_id="p")}
        bench.sender.settle(_alike(bench.taken(), [b"ok", b"no", b"ok"]))
        assert words(batch) == ["accepted", "rejected", "accepted"]
        assert batch.notes[2].provider_id == "p"

    async def test_a_plan_that_raises_over_them_is_asked_for_each(self, bench: Bench) -> None:
        batch = bench.add(2)
        bench.sender.settle(_alike(bench.taken(), [b"", b"unheard of"]))
        assert words(batch) == ["accepted", "unknown"]


class TestRefusalsThatAreAlike:
    """They are judged once; what differs in anything that an answer says is judged by itself."""

    async def test_two_words_of_one_body_are_told_apart(self, bench: Bench) -> None:
        batch = bench.add(4)
        asked: list[tuple[int, Headers]] = []

        def outcome(status: int, headers: Headers, body: bytes, now: float) -> Outcome:
            asked.append((status, headers))
            return Outcome(Verdict.REJECTED, f"{status} {len(headers)}")

        bench.plan.outcome = outcome  # type: ignore[method-assign]
        said: list[tuple[int, Headers]] = [(400, ()), (404, ()), (400, ((b"a", b"b"),)), (400, ((b"a", b"b"),))]
        results = Results()
        results.answers = [Answer(tag, *of, b"no") for tag, of in zip(bench.taken().tags, said, strict=True)]
        bench.sender.settle(results)
        assert asked == said[:3], "the last one is as the one before"
        assert [batch.notes[index].reason for index in range(4)] == ["400 0", "404 0", "400 1", "400 1"]

    @pytest.mark.parametrize(("between", "held"), [(None, True), (REFUSED_ALONE, False)])
    async def test_failures_are_in_a_row_only_where_nothing_else_was_judged_between_them(
        self, bench: Bench, between: Outcome | None, held: bool
    ) -> None:
        bench.add(2 * breaker_rules.FAILURES_TO_HOLD)
        bench.plan.outcomes |= {b"down": UNAVAILABLE, b"other": between or UNAVAILABLE}
        bodies = [b"down"] * (breaker_rules.FAILURES_TO_HOLD - 1)
        results = Results()
        results.answers = [
            Answer(tag, 400, (), body)
            for tag, body in zip(bench.taken().tags, [*bodies, b"other", *bodies, b"other"], strict=True)
        ]
        bench.sender.settle(results)
        assert (bench.sender.breaker.cause is Cause.UNAVAILABLE) == held
        assert bench.on_wire == 0


class TestAnswers:
    async def test_a_rejection_is_final_with_the_services_reason(self, bench: Bench) -> None:
        batch = bench.add(2)
        bench.answer(bench.taken(), REJECTED)
        assert words(batch) == ["rejected"] * 2
        assert batch.notes[0] == Note(reason="no", attempts=1)
        assert bench.finished == [batch]

    async def test_an_accepted_one_keeps_the_services_id(self, bench: Bench) -> None:
        batch = bench.add(1)
        bench.answer(bench.taken(), Outcome(verdict=Verdict.ACCEPTED, provider_id="p1"))
        assert words(batch) == ["accepted"]
        assert batch.notes[0].provider_id == "p1"

    async def test_a_bare_answer_is_looked_at_where_the_plan_wants_it(self, bench: Bench) -> None:
        """A service whose successes have a body says something else with an empty one."""
        bench.plan.bare_accept = False
        bench.plan.outcomes[b""] = REJECTED
        batch = bench.add(2)
        bench.accept(bench.taken())
        assert words(batch) == ["rejected"] * 2
        assert bench.on_wire == 0

    async def test_answers_of_several_batches_come_in_any_order(self, bench: Bench) -> None:
        one, two = bench.add(2), bench.add(2)
        requests = [bench.taken(2), bench.taken(2)]
        mixed = requests[0]._replace(tags=[(one, 1), (two, 0), (one, 0), (two, 1)])
        bench.accept(mixed)
        assert words(one) == words(two) == ["accepted"] * 2
        assert bench.finished == [one, two]

    async def test_what_came_back_unprocessed_goes_again_and_counts_as_no_try(self, bench: Bench) -> None:
        batch = bench.add(2)
        bench.refuse(bench.taken())
        assert words(batch) == ["pending"] * 2
        assert not batch.notes
        assert len(bench.taken().tags) == 2

    async def test_a_throttled_one_waits_as_long_as_asked_and_the_others_go_on(self, bench: Bench) -> None:
        batch = bench.add(2)
        bench.answer(bench.taken(1), THROTTLED)
        assert targets(bench.taken()) == [b"t1"]
        await pass_time(bench, 4.9)
        assert bench.take() is None
        await pass_time(bench, 1.5)
        assert targets(bench.taken()) == [b"t0"]
        assert batch.notes[0].attempts == 2

    async def test_what_waits_carries_until_when_and_why(self, bench: Bench) -> None:
        """For its next holder, by the clock that all holders share."""
        batch, now = bench.add(1), asyncio.get_running_loop().time()
        bench.answer(bench.taken(), THROTTLED)
        assert batch.notes[0].reason == "slow"
        assert now + 5.0 <= batch.notes[0].retry_at <= now + 6.25

    async def test_an_unknown_one_is_reported_where_the_job_says_so(self, bench: Bench) -> None:
        batch = bench.add(2)
        bench.lose(bench.taken())
        assert words(batch) == ["unknown"] * 2
        assert batch.notes[0] == Note(reason="connection lost", unanswered=1)

    async def test_an_unknown_one_is_sent_again_where_the_job_says_so(self, bench: Bench) -> None:
        batch = bench.add(1, of=lease(1, job(resend=True)))
        bench.lose(bench.taken())
        assert words(batch) == ["sent"], "what a crash leaves of it may not say that it never was"
        await pass_time(bench, 1.0)
        bench.accept(bench.taken())
        assert words(batch) == ["accepted"]
        assert (batch.notes[0].attempts, batch.notes[0].unanswered) == (2, 1)

    @pytest.mark.parametrize(("lost", "slices"), [(True, range(10, 16)), (False, range(1, 8))])
    async def test_what_may_have_cut_its_connection_goes_apart_from_its_neighbours(
        self, lost: bool, slices: range
    ) -> None:
        """Other retries wait a little for each other, as a slice costs whatever is in it."""
        bench = Bench(retry_share=1.0)
        bench.add(15, of=lease(15, job(resend=True)))
        if lost:
            bench.lose(bench.taken())
        else:
            bench.answer(bench.taken(), UNAVAILABLE)
        assert bench.take() is None
        sent = []
        for _ in range(150):
            await pass_time(bench, 0.01)
            if (requests := bench.take()) is not None:
                sent.append(len(requests.tags))
                bench.accept(requests)
        assert sum(sent) == 15
        assert len(sent) in slices

    async def test_the_last_try_is_the_last(self) -> None:
        bench = Bench(limits=Limits(max_attempts=2))
        batch = bench.add(1)
        bench.answer(bench.taken(), UNAVAILABLE)
        await pass_time(bench, 2.0)
        bench.answer(bench.taken(), UNAVAILABLE)
        assert words(batch) == ["dead_lettered"]


class Counted:
    """A lane's metrics."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[Verdict, str]] = Counter()
        self.again = 0

    def outcome(self, verdict: Verdict, reason: str = "", count: int = 1) -> None:
        self.outcomes[verdict, reason] += count

    def retried(self, count: int) -> None:
        self.again += count


class TestCounting:
    @pytest.fixture
    def lanes(self, bench: Bench) -> dict[Lane, Counted]:
        lanes = {lane: Counted() for lane in Lane}
        bench.sender.lane_metrics = lanes  # type: ignore[assignment]
        return lanes

    async def test_each_answer_is_counted_in_its_lane(self, bench: Bench, lanes: dict[Lane, Counted]) -> None:
        """And with its credential's, for whom it does not matter what was refused."""
        code = bench.add(1, of=lease(1, job(lane=Lane.TRANSACTIONAL)))
        requests = bench.taken()
        campaign = bench.add(6)
        requests.tags.extend(bench.taken().tags)
        bench.answer(requests._replace(tags=requests.tags[:3]), THROTTLED)
        bench.answer(requests._replace(tags=requests.tags[3:4]), REJECTED)
        bench.lose(requests._replace(tags=requests.tags[4:5]))
        bench.refuse(requests._replace(tags=requests.tags[5:6]))
        bench.accept(requests._replace(tags=requests.tags[6:]))
        assert [tag[0] for tag in requests.tags] == [code, *[campaign] * 6]
        assert lanes[Lane.TRANSACTIONAL].outcomes == {(Verdict.THROTTLED, "slow"): 1}
        assert lanes[Lane.PROMOTIONAL].outcomes == {
            (Verdict.THROTTLED, "slow"): 2,
            (Verdict.REJECTED, "no"): 1,
            (Verdict.UNKNOWN, "connection lost"): 1,
            (Verdict.UNSENT, ""): 1,
            (Verdict.ACCEPTED, ""): 1,
        }
        assert (lanes[Lane.TRANSACTIONAL].again, lanes[Lane.PROMOTIONAL].again) == (1, 2)
        assert (bench.sender.tally.accepted, bench.sender.tally.failed) == (1, 5)


class TestDeadTargets:
    """Of a route that has had something accepted."""

    @pytest.fixture
    async def bench(self) -> Bench:
        bench = Bench()
        bench.add(1)
        bench.accept(bench.taken())
        bench.finished.clear()
        return bench

    async def test_they_are_told_with_the_time_of_their_death(self, bench: Bench) -> None:
        batch = bench.add(2)
        bench.answer(bench.taken(), dead(START - 60))
        assert words(batch) == ["invalid_token"] * 2
        assert batch.dead == [DeadTarget(b"key of t%d" % n, START - 60, "gone") for n in range(2)]

    async def test_without_a_time_they_died_now(self, bench: Bench) -> None:
        batch = bench.add(1)
        bench.answer(bench.taken(), dead())
        assert batch.dead[0].since == START

    async def test_a_registration_after_the_death_lives(self, bench: Bench) -> None:
        """The service speaks of a former life of the target; this message to it is refused all the same."""
        batch = bench.add(3, of=lease(3, registered={0: START - 1, 1: START - 60, 2: START - 61}))
        bench.answer(bench.taken(), dead(START - 60))
        assert words(batch) == ["rejected", "invalid_token", "invalid_token"]
        assert [target.key for target in batch.dead] == [b"key of t1", b"key of t2"]

    async def test_a_sudden_share_of_them_invalidates_nothing(self, bench: Bench) -> None:
        """Of no batch that is still open: later answers leave their deliveries waiting for an operator."""
        batches = [bench.add(300, of=lease(300, job())) for _ in range(3)]
        requests = [bench.taken(1000) for _ in range(6)]
        for slice_ in requests:
            bench.answer(slice_, dead(START))
        assert bench.sender.breaker.suspicious
        assert words(batches[0]) == ["invalid_token"] * 300, "before it could be known"
        assert words(batches[2]) == ["pending"] * 300
        assert sum(len(batch.dead) for batch in batches[1:]) == 0
        assert not bench.sender.backlog

    async def test_nothing_of_a_suspicious_time_is_invalidated_later(self, bench: Bench) -> None:
        batch = bench.add(1000)
        for _ in range(2):
            bench.answer(bench.taken(250), dead(START))
        assert bench.sender.breaker.suspicious
        await asyncio.sleep(breaker_rules.MISCONFIGURED_HOLD)
        bench.accept(bench.taken())
        assert bench.sender.breaker.cause is None
        assert batch.dead == []


class TestDoubt:
    """A route that has never had anything accepted may have a wrong environment."""

    async def test_a_dead_target_is_asked_again_and_its_message_rejected_in_the_end(self, bench: Bench) -> None:
        batch = bench.add(1)
        for tries in range(TRIES_IN_DOUBT):
            assert (words(batch), bench.sender.load().waiting) == (["pending"], min(1, tries))
            await pass_time(bench, 3.0)
            bench.answer(bench.taken(), bad_token())
        assert words(batch) == ["rejected"]
        assert batch.notes[0].reason == "bad, not believed while nothing of its route is accepted"
        assert batch.dead == []

    async def test_an_acceptance_clears_it(self, bench: Bench) -> None:
        batch = bench.add(2)
        bench.answer(bench.taken(1), bad_token())
        bench.accept(bench.taken(1))
        await pass_time(bench, 3.0)
        bench.answer(bench.taken(), bad_token())
        assert words(batch) == ["invalid_token", "accepted"]
        assert [target.key for target in batch.dead] == [b"key of t0"]

    async def test_a_wrongly_configured_route_stops_and_kills_no_token(self, bench: Bench) -> None:
        batch = bench.add(200)
        bench.answer(bench.taken(100), bad_token())
        assert bench.sender.breaker.cause is Cause.MISCONFIGURED
        assert (words(batch), batch.dead) == (["pending"] * 200, [])

    async def test_what_no_setting_explains_is_believed_at_once(self, bench: Bench) -> None:
        batch = bench.add(1)
        bench.answer(bench.taken(), dead(START))
        assert words(batch) == ["invalid_token"]
        assert [target.key for target in batch.dead] == [b"key of t0"]


class TestBudget:
    """Retries are a share of what is sent for the first time, and a few a second."""

    async def test_a_retry_beyond_it_waits_and_then_goes(self) -> None:
        bench = Bench(retry_share=0.1, retry_floor=1.0)
        batch = bench.add(100)
        requests = bench.taken()
        bench.answer(requests._replace(tags=requests.tags[:50]), REFUSED_ALONE)
        bench.accept(requests._replace(tags=requests.tags[50:]))
        await pass_time(bench, 8.0)
        retried = len(bench.taken().tags)
        assert retried == 10 + 1 + 8 - 1, "a tenth of the first ones, and one a second; some of it has faded"
        assert bench.sender.held_back(asyncio.get_running_loop().time()) == 50 - retried
        await pass_time(bench, 5.0)
        assert len(bench.taken().tags) == 5
        assert words(batch).count("pending") == 50 - retried - 5

    async def test_transactional_retries_go_first(self) -> None:
        bench = Bench(retry_share=0.0, retry_floor=1.0)
        campaign = bench.add(10)
        bench.answer(bench.taken(), REFUSED_ALONE)
        code = bench.add(1, of=lease(1, job(lane=Lane.TRANSACTIONAL)))
        bench.answer(bench.taken(), REFUSED_ALONE)
        await pass_time(bench, 6.0)
        assert bench.taken().tags == [(code, 0)]
        assert {flight for flight, _ in bench.taken().tags} == {campaign}

    async def test_what_was_not_processed_costs_nothing(self) -> None:
        bench = Bench(retry_share=0.0, retry_floor=0.001)
        bench.add(100)
        for _ in range(5):
            bench.refuse(requests := bench.taken())
            assert len(requests.tags) == 100

    async def test_only_what_is_sent_for_the_first_time_earns_it(self) -> None:
        bench = Bench(retry_share=0.5, retry_floor=0.001)
        bench.add(11)
        bench.answer(bench.taken(), REFUSED_ALONE)
        await pass_time(bench, 8.0)
        retries = bench.taken()
        assert len(retries.tags) == 5
        bench.answer(retries, REFUSED_ALONE)
        await pass_time(bench, 30.0)
        assert bench.take() is None

    async def test_a_batch_of_retries_that_are_held_back_leaves_its_place_to_others(self) -> None:
        bench = Bench(retry_share=0.0, retry_floor=0.001)
        batch = bench.add(10)
        bench.answer(bench.taken(), REFUSED_ALONE)
        loop = asyncio.get_running_loop()
        await pass_time(bench, 6.0)
        assert bench.sender.deferrable(loop.time()) == []
        await pass_time(bench, 3.0)
        ((deferred, seconds),) = bench.sender.deferrable(loop.time())
        assert deferred is batch
        assert 5 <= seconds <= BURST - HELD_BACK_PATIENCE, "what time earns while it is away is saved up, all of it"

    async def test_what_is_held_back_expires_in_its_time(self) -> None:
        bench = Bench(retry_share=0.0, retry_floor=0.001)
        batch = bench.add(2, of=lease(2, job(expires_in=1020.0)))
        bench.answer(bench.taken(), REFUSED_ALONE)
        await pass_time(bench, 19.0)
        assert bench.take() is None
        await pass_time(bench, 1.0)
        assert words(batch) == ["expired"] * 2


class TestYielding:
    """After a hold for the service's sake a route comes back slowly."""

    async def test_a_recovery_is_a_slope(self, bench: Bench) -> None:
        for _ in range(20):
            bench.add(1000)
        bench.accept(bench.taken(1000))
        await asyncio.sleep(0.01)  # what comes with acceptances is no row of failures
        bench.answer(bench.taken(20), UNAVAILABLE)
        await asyncio.sleep(1.0)
        bench.accept(bench.taken())
        sent = []
        for _ in range(30):
            sent.append(0)
            for _ in range(10):
                await asyncio.sleep(0.1)
                while (requests := bench.take(1000)) is not None:
                    sent[-1] += len(requests.tags)
                    bench.accept(requests)
        assert 90 <= sent[0] <= 270, "some of the 270 a second of before"
        assert sent[1:] == sorted(sent[1:])
        assert all(LEAST_STEP - 5 <= later - sooner <= LEAST_STEP + 5 for sooner, later in itertools.pairwise(sent[1:]))

    async def test_what_comes_back_unprocessed_slows_down_when_it_holds(self, bench: Bench) -> None:
        bench.add(1000)
        for _ in range(breaker_rules.UNSENT_TO_HOLD // 250):
            assert (bench.sender.breaker.cause, bench.sender.governor.rate) == (None, None)
            bench.refuse(bench.taken(250))
        assert bench.sender.breaker.cause is Cause.UNAVAILABLE
        assert bench.sender.governor.rate is not None

    async def test_throttled_targets_slow_nobody_down(self, bench: Bench) -> None:
        bench.add(100)
        bench.answer(bench.taken(), REFUSED_ALONE)
        assert bench.sender.governor.rate is None

    async def test_a_refused_credential_is_no_reason_to_be_slow(self, bench: Bench) -> None:
        bench.add(100)
        bench.answer(bench.taken(20), Outcome(verdict=Verdict.CREDENTIAL, reason="bad key", scope=Scope.CREDENTIAL))
        assert bench.sender.governor.rate is None


class TestSharing:
    @pytest.mark.parametrize("scope", Scope)
    async def test_who_shares_what_is_in_trouble_is_told_once(self, bench: Bench, scope: Scope) -> None:
        bench.add(100)
        wide = scope in (Scope.APP, Scope.CREDENTIAL)
        bench.answer(bench.taken(10), Outcome(verdict=Verdict.THROTTLED, reason="slow", scope=scope))
        assert bench.held == ([scope] if wide else [])

    async def test_it_holds_as_the_other_does_and_slows_down(self, bench: Bench) -> None:
        bench.add(100)
        other = Bench()
        other.add(10)
        other.answer(other.taken(), Outcome(verdict=Verdict.THROTTLED, scope=Scope.CREDENTIAL, retry_after=60.0))
        bench.sender.join(other.sender)
        assert bench.take() is None
        assert bench.sender.governor.rate is not None


class TestCredentials:
    """What is wrong with a credential is not the delivery's fault: nothing is burned."""

    @pytest.mark.parametrize("scope", Scope)
    async def test_its_jobs_wait_however_often_it_is_refused(self, scope: Scope) -> None:
        bench = Bench(limits=Limits(max_attempts=2))
        batch = bench.add(3)
        for _ in range(30):
            bench.answer(bench.taken(), Outcome(verdict=Verdict.CREDENTIAL, reason="bad", scope=scope, retry_after=5.0))
            assert words(batch) == ["pending"] * 3
            await pass_time(bench, 70.0)
        assert all(note.attempts == 1 for note in batch.notes.values())

    async def test_they_expire_in_their_time(self, bench: Bench) -> None:
        batch = bench.add(3, of=lease(3, job(expires_in=1030.0)))
        bench.answer(bench.taken(), Outcome(verdict=Verdict.CREDENTIAL, reason="bad", scope=Scope.CREDENTIAL))
        await pass_time(bench, 30.0)
        assert words(batch) == ["expired"] * 3

    async def test_one_that_is_wrong_for_a_single_target_keeps_only_that(self, bench: Bench) -> None:
        batch = bench.add(2)
        alone = Outcome(verdict=Verdict.CREDENTIAL, reason="bad", scope=Scope.TARGET, retry_after=300.0)
        bench.answer(bench.taken(1), alone)
        bench.accept(bench.taken())
        assert words(batch) == ["pending", "accepted"]
        await pass_time(bench, 299.0)
        assert bench.take() is None


class TestExpiry:
    async def test_it_is_looked_at_right_before_framing(self, bench: Bench) -> None:
        batch = bench.add(4, of=lease(4, job(expires_in=1005.0)))
        requests = bench.taken(1)
        await asyncio.sleep(5.0)
        assert bench.take() is None
        assert words(batch) == ["sent", "expired", "expired", "expired"]
        bench.accept(requests)
        assert bench.finished == [batch]
        assert list(batch.milliseconds) == [1_005_000] * 4

    async def test_it_needs_no_connection(self, bench: Bench) -> None:
        """Nobody may ask for a slice for hours."""
        batch = bench.add(4, of=lease(4, job(expires_in=1005.0)))
        bench.answer(bench.taken(1), Outcome(verdict=Verdict.THROTTLED, retry_after=4.0))
        await pass_time(bench, 5.0)
        assert bench.finished == [batch]
        assert words(batch) == ["expired"] * 4

    async def test_what_comes_back_too_late_is_not_sent_again(self, bench: Bench) -> None:
        batch = bench.add(1, of=lease(1, job(expires_in=1005.0)))
        requests = bench.taken()
        await pass_time(bench, 5.0)
        bench.refuse(requests)
        assert bench.take() is None
        assert words(batch) == ["expired"]

    async def test_a_batch_that_comes_too_late_is_finished_at_once(self, bench: Bench) -> None:
        batch = bench.add(4, of=lease(4, job(expires_in=1000.0)))
        assert bench.finished == [batch]


class TestCancelling:
    async def test_what_is_not_on_the_wire_ends(self, bench: Bench) -> None:
        batch, other = bench.add(4), bench.add(1)
        requests = bench.taken(2)
        bench.sender.cancel(batch.job.id)
        assert words(batch) == ["sent", "sent", "cancelled", "cancelled"]
        assert bench.taken().tags == [(other, 0)]
        bench.accept(requests)
        assert bench.finished == [batch]

    async def test_what_comes_back_unsent_ends_as_well(self, bench: Bench) -> None:
        batch = bench.add(2)
        requests = bench.taken()
        bench.sender.cancel(batch.job.id)
        bench.refuse(requests)
        assert bench.take() is None
        assert words(batch) == ["cancelled"] * 2
        assert bench.finished == [batch]

    async def test_what_may_have_arrived_is_not_called_cancelled(self, bench: Bench) -> None:
        batch = bench.add(1, of=lease(1, job(resend=True)))
        bench.lose(bench.taken())
        bench.sender.cancel(batch.job.id)
        assert words(batch) == ["unknown"]


class TestRemoving:
    """The queue has the batch back, or another holder has it."""

    async def test_nothing_of_it_is_sent_any_more(self, bench: Bench) -> None:
        batch = bench.add(4)
        requests = bench.taken(2)
        bench.sender.remove(batch)
        assert bench.take() is None
        bench.refuse(requests)
        assert bench.take() is None
        assert not bench.sender.backlog

    @pytest.mark.parametrize("outcome", [None, REJECTED, THROTTLED, dead(), UNAVAILABLE])
    async def test_late_answers_change_nothing_but_the_counts(self, bench: Bench, outcome: Outcome | None) -> None:
        batch = bench.add(2, of=lease(2, job(resend=True), notes={0: Note(attempts=2)}))
        requests = bench.taken()
        bench.sender.remove(batch)
        if outcome is None:
            bench.accept(requests)
        else:
            bench.answer(requests, outcome)
        left = batch.lease.progress
        assert (bytes(left.states), list(left.milliseconds)) == (bytes([State.SENT] * 2), [0, 0])
        assert left.notes == {0: Note(attempts=2)}
        assert bench.on_wire == 0
        assert not bench.finished
        await pass_time(bench, 60.0)
        assert bench.take() is None

    async def test_a_batch_that_only_waits_for_long_can_be_deferred(self, bench: Bench) -> None:
        long = Outcome(verdict=Verdict.THROTTLED, retry_after=60.0)
        waiting, short, going = bench.add(1), bench.add(1), bench.add(2)
        bench.answer(bench.taken(1), long)
        bench.answer(bench.taken(1), Outcome(verdict=Verdict.THROTTLED, retry_after=5.0))
        bench.answer(bench.taken(1), long)
        now = asyncio.get_running_loop().time()
        ((deferrable, seconds),) = bench.sender.deferrable(now)
        assert deferrable is waiting
        assert seconds >= 60 > DEFER_AFTER
        assert {short, going} < bench.sender.flights.keys()

    async def test_what_was_removed_is_kept_nowhere(self, bench: Bench) -> None:
        """A retry in 15 minutes must not hold a batch's columns in memory for as long."""
        batch = bench.add(1)
        bench.answer(bench.taken(), Outcome(verdict=Verdict.THROTTLED, retry_after=900.0))
        bench.sender.remove(batch)
        gc.collect()
        assert not [each for each in gc.get_referrers(batch) if isinstance(each, list | tuple | dict | set | deque)]


class TestHolds:
    async def test_while_held_nothing_goes_and_then_one(self, bench: Bench) -> None:
        bench.add(100)
        bench.answer(bench.taken(20), UNAVAILABLE)
        assert bench.take() is None
        assert not bench.sender.backlog
        await asyncio.sleep(1.0)
        probe = bench.taken()
        assert len(probe.tags) == 1
        assert bench.take() is None
        assert not bench.sender.backlog, "or the pool would open connections for it"
        bench.accept(probe)
        assert bench.take() is not None

    async def test_a_service_that_answers_nobody_is_held_too(self, bench: Bench) -> None:
        bench.add(100)
        bench.lose(bench.taken(breaker_rules.FAILURES_TO_HOLD))
        assert (bench.sender.breaker.cause, bench.sender.breaker.reason) == (Cause.UNAVAILABLE, "connection lost")
        assert bench.take() is None
        assert bench.sender.tally.refused == 0, "the credential has nothing to do with it"

    async def test_the_probe_waits_for_what_was_sent_before_the_hold(self, bench: Bench) -> None:
        bench.add(100)
        before = bench.taken(10)
        bench.answer(bench.taken(20), UNAVAILABLE)
        await asyncio.sleep(1.0)
        assert bench.take() is None
        bench.accept(before)
        assert len(bench.taken().tags) == 1

    async def test_a_probe_that_did_not_fit_or_was_rejected_is_no_probe(self, bench: Bench) -> None:
        bench.add(100)
        bench.answer(bench.taken(20), UNAVAILABLE)
        await asyncio.sleep(1.0)
        bench.sender.give_back(bench.taken().tags)
        probe = bench.taken()
        assert targets(probe) == [b"t20"]
        bench.refuse(probe)
        assert bench.take() is None, "and held again, for longer"

    async def test_probes_wait_for_the_rate(self) -> None:
        bench = Bench(rate=10.0)
        bench.sender.governor.spend(2)
        bench.add(100)
        bench.sender.breaker.answered(Outcome(verdict=Verdict.THROTTLED, scope=Scope.APP, retry_after=0.02), 1000.0)
        await asyncio.sleep(0.03)
        assert bench.take() is None
        await asyncio.sleep(1.0)
        assert len(bench.taken().tags) == 1

    async def test_an_expired_credential_is_minted_once_for_all_that_were_signed_with_it(self, bench: Bench) -> None:
        batch = bench.add(100)
        before = [bench.taken(30), bench.taken(30)]
        for requests in before:
            bench.answer(requests, EXPIRED_CREDENTIAL)
            assert (bench.credential.renewed, bench.pool.replaced) == (1, 1)
        probe = bench.taken()
        assert len(probe.tags) == 1
        assert probe.head.fixed[-1] == (b"authorization", b"1")
        bench.accept(probe)
        assert len(bench.taken().tags) == 59
        assert all(note.attempts == 1 for note in batch.notes.values()), "nothing is wrong with the deliveries"
        assert bench.sender.tally.refused == 0, "nor with the key"

    async def test_a_refused_credential_keeps_its_jobs(self, bench: Bench) -> None:
        batch = bench.add(4)
        refused = Outcome(verdict=Verdict.CREDENTIAL, reason="bad key", scope=Scope.CREDENTIAL)
        bench.answer(bench.taken(2), refused)
        assert words(batch) == ["pending"] * 4
        assert bench.sender.breaker.cause is Cause.CREDENTIAL
        assert (bench.sender.tally.refused, bench.sender.tally.reason) == (1, "bad key")
        await asyncio.sleep(breaker_rules.CREDENTIAL_HOLD)
        bench.answer(bench.taken(), refused)
        assert bench.take() is None
        assert bench.credential.renewed == 0


class TestGoaway:
    async def test_what_a_service_says_of_the_credential_holds_the_route(self, bench: Bench) -> None:
        """Reconnecting again and again would not change its mind."""
        bench.add(4)
        bench.sender.goaway(0, b"certificate")
        assert bench.take() is None
        assert bench.sender.breaker.cause is Cause.CREDENTIAL

    async def test_an_old_credential_is_minted_anew(self, bench: Bench) -> None:
        bench.provider.farewells[b"old"] = EXPIRED_CREDENTIAL
        bench.add(4)
        bench.sender.goaway(0, b"old")
        assert bench.credential.renewed == 1
        assert len(bench.taken().tags) == 1

    async def test_any_other_farewell_means_nothing(self, bench: Bench) -> None:
        bench.sender.goaway(11, b"calm down")
        assert bench.sender.breaker.cause is None


async def test_whatever_became_of_them_the_counts_return_to_zero(bench: Bench) -> None:
    """Every way out of the wire, over batches that end, wait, are removed and cancelled meanwhile."""
    draw = random.Random(5)
    loop = asyncio.get_running_loop()
    batches = [bench.add(50, of=lease(50, job(resend=draw.random() < 0.5))) for _ in range(20)]
    outcomes = [REJECTED, THROTTLED, UNAVAILABLE, dead(), EXPIRED_CREDENTIAL]
    on_wire = []
    for _ in range(3000):
        await asyncio.sleep(draw.random())
        if draw.random() < 0.5 and (requests := bench.take(draw.randrange(1, 20))) is not None:
            on_wire.append(requests)
        elif on_wire:
            requests = on_wire.pop(draw.randrange(len(on_wire)))
            how = draw.choice([bench.accept, bench.accept, bench.lose, bench.refuse, None])
            how(requests) if how else bench.answer(requests, draw.choice(outcomes))
        if draw.random() < 0.002 and bench.sender.flights:
            bench.sender.remove(draw.choice(sorted(bench.sender.flights, key=id)))
        bench.sender.tick(loop.time(), EPOCH + loop.time())
        assert bench.on_wire == sum(len(each.tags) for each in on_wire)
    for requests in on_wire:
        bench.refuse(requests)
    for batch in batches:
        bench.sender.cancel(batch.job.id)
        assert batch.on_wire == 0
    assert bench.on_wire == 0
    assert not bench.sender.flights
    removed = [batch for batch in batches if batch not in bench.finished]
    assert 0 < len(removed) < 10
    assert all(batch.left == 0 for batch in bench.finished)


async def test_nothing_is_sent_under_a_lease_that_has_run_out() -> None:
    """A process that was stopped for longer than its lease must not send what may be on its way elsewhere by now."""
    bench = Bench()
    flight = bench.add(4, until=asyncio.get_running_loop().time() + 30.0)
    requests = bench.taken(streams=2)
    await asyncio.sleep(30.0)
    bench.accept(requests)
    assert bench.take() is None
    flight.suspects.append(3)
    assert bench.sender.take_suspect(1000) is None


async def test_what_is_left_of_a_flight_goes_on_when_its_lease_is_extended() -> None:
    bench = Bench()
    flight = bench.add(4, until=asyncio.get_running_loop().time() + 30.0)
    await asyncio.sleep(30.0)
    assert bench.take() is None
    flight.lease.until += 30.0
    bench.sender.renewed(flight)
    assert len(targets(bench.taken())) == 4
