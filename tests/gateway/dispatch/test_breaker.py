"""Whether a route may send at all."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.dispatch import breaker as rules
from gateway.dispatch.breaker import Breaker, Cause
from providers.base import Outcome, Scope, Verdict

UNAVAILABLE = Outcome(verdict=Verdict.UNAVAILABLE, reason="down")
UNKNOWN = Outcome(verdict=Verdict.UNKNOWN, reason="timeout")
REJECTED = Outcome(verdict=Verdict.REJECTED, reason="no")
DEAD = Outcome(verdict=Verdict.UNREGISTERED, reason="gone")
BAD = Outcome(verdict=Verdict.UNREGISTERED, reason="bad", ambiguous=True)
REFUSED = Outcome(verdict=Verdict.CREDENTIAL, reason="bad key", scope=Scope.CREDENTIAL)
EXPIRED = Outcome(verdict=Verdict.CREDENTIAL, reason="old", scope=Scope.CREDENTIAL, remint=True)
QUOTA = Outcome(verdict=Verdict.THROTTLED, reason="quota", scope=Scope.APP, retry_after=30.0)
SHORT_QUOTA = Outcome(verdict=Verdict.THROTTLED, reason="quota", scope=Scope.APP, retry_after=0.25)
SLOW_DOWN = Outcome(verdict=Verdict.THROTTLED, reason="slow down", scope=Scope.APP)
DEVICE = Outcome(verdict=Verdict.THROTTLED, reason="this device", scope=Scope.TARGET, retry_after=30.0)


@pytest.fixture
def breaker() -> Breaker:
    return Breaker(0.5)


def fail(breaker: Breaker, now: float, outcome: Outcome = UNAVAILABLE) -> None:
    for _ in range(rules.FAILURES_TO_HOLD):
        breaker.answered(outcome, now)


def probed(breaker: Breaker, now: float) -> None:
    """The probe goes."""
    assert breaker.allowance(now, 0) == 1
    breaker.probe()
    assert breaker.allowance(now, 1) == 0, "one is enough"


def proven() -> Breaker:
    """Of a route that has had something accepted."""
    breaker = Breaker(0.5)
    breaker.accepted(1, -3600.0)
    return breaker


def test_a_route_begins_without_trouble(breaker: Breaker) -> None:
    assert (breaker.cause, breaker.reason, breaker.hold(0.0), breaker.allowance(0.0, 5)) == (None, "", None, None)


def test_single_failures_are_the_deliveries_own(breaker: Breaker) -> None:
    for _ in range(2):
        for _ in range(rules.FAILURES_TO_HOLD - 1):
            assert not breaker.answered(UNAVAILABLE, 0.0)
        breaker.accepted(1, 0.0)
    assert breaker.allowance(0.0, 5) is None


@pytest.mark.parametrize("between", [REJECTED, DEVICE, DEAD])
def test_an_answer_about_a_delivery_shows_that_the_service_works(between: Outcome) -> None:
    breaker = proven()
    for _ in range(10 * rules.FAILURES_TO_HOLD):
        breaker.answered(UNAVAILABLE, 0.0)
        breaker.answered(between, 0.0)
    assert breaker.cause is None


@pytest.mark.parametrize("outcome", [UNAVAILABLE, Outcome(Verdict.THROTTLED, "slow down", scope=Scope.UNNAMED)])
def test_those_of_a_read_with_acceptances_are_not_taken_for_a_row(breaker: Breaker, outcome: Outcome) -> None:
    """Bare acceptances are told first, wherever they were among the others."""
    for moment in range(5):
        breaker.accepted(200, float(moment))
        assert not breaker.answered(outcome, float(moment), rules.FAILURES_TO_HOLD + rules.THROTTLED_TO_HOLD)
    assert breaker.cause is None
    assert breaker.answered(outcome, 6.0, rules.FAILURES_TO_HOLD + rules.THROTTLED_TO_HOLD), "alone they are one"


def test_failures_in_a_row_hold_the_route_until_a_probe_is_accepted(breaker: Breaker) -> None:
    fail(breaker, 0.0)
    assert breaker.cause is Cause.UNAVAILABLE
    assert breaker.allowance(0.9, 0) == 0
    probed(breaker, 1.0)
    breaker.accepted(1, 1.1)
    assert breaker.allowance(1.1, 0) is None
    assert breaker.reason == ""
    assert not breaker.answered(UNAVAILABLE, 1.1), "it is no probe's answer any more"


def test_the_probe_waits_until_it_is_alone(breaker: Breaker) -> None:
    """So that what the next answer says is about the probe, and not about something sent before the hold."""
    fail(breaker, 0.0)
    assert breaker.allowance(5.0, 3) == 0
    assert breaker.allowance(5.0, 0) == 1


def test_each_failed_probe_doubles_the_hold_up_to_a_ceiling(breaker: Breaker) -> None:
    fail(breaker, 0.0)
    now, holds = 0.0, []
    for _ in range(9):
        hold = breaker.hold(now)
        assert hold is not None
        holds.append(hold)
        now += hold
        probed(breaker, now)
        breaker.answered(UNAVAILABLE, now)
    assert holds == [1, 2, 4, 8, 16, 20, 20, 20, 20]


def test_a_release_begins_the_doubling_anew(breaker: Breaker) -> None:
    fail(breaker, 0.0)
    probed(breaker, 1.0)
    fail(breaker, 1.0)
    probed(breaker, 3.0)
    breaker.accepted(1, 3.0)
    fail(breaker, 4.0)
    assert breaker.hold(4.0) == 1.0


@pytest.mark.parametrize("late", [UNAVAILABLE, SLOW_DOWN])
def test_late_answers_do_not_prolong_a_hold(breaker: Breaker, late: Outcome) -> None:
    """They were asked before it began, and the first one said it all."""
    fail(breaker, 0.0)
    for _ in range(100):
        assert not breaker.answered(late, 0.9)
    assert breaker.hold(0.9) == pytest.approx(0.1)


def test_requests_that_come_back_unprocessed_do_not_prolong_a_hold(breaker: Breaker) -> None:
    fail(breaker, 0.0)
    assert not breaker.unsent(rules.UNSENT_TO_HOLD, 0.75)
    assert breaker.hold(0.75) == 0.25


def test_a_graver_cause_takes_over(breaker: Breaker) -> None:
    """The operator has to see it, and it is not over so soon."""
    fail(breaker, 0.0)
    assert breaker.answered(REFUSED, 0.5)
    assert breaker.cause is Cause.CREDENTIAL
    assert breaker.hold(0.5) == rules.CREDENTIAL_HOLD
    assert not breaker.answered(REFUSED, 9.5)
    assert not breaker.answered(UNAVAILABLE, 9.5)
    assert breaker.hold(9.5) == rules.CREDENTIAL_HOLD - 9


def test_late_answers_do_not_release_a_hold(breaker: Breaker) -> None:
    """Neither while it lasts nor afterwards: only the probe's answer does."""
    fail(breaker, 0.0)
    breaker.accepted(500, 0.5)
    breaker.answered(REJECTED, 1.5)
    breaker.accepted(500, 1.5)
    assert breaker.cause is Cause.UNAVAILABLE


def test_a_late_answer_after_the_hold_is_not_taken_for_the_probe(breaker: Breaker) -> None:
    """Asking for an allowance while others are on the wire is not yet a probe: a late refusal must not hold anew."""
    breaker.answered(EXPIRED, 0.0)
    for _ in range(500):
        assert breaker.allowance(0.0, 500) == 0
        assert not breaker.answered(EXPIRED, 0.0)
    assert breaker.allowance(0.1, 0) == 1


def test_what_a_service_asks_for_is_waited_for(breaker: Breaker) -> None:
    breaker.answered(QUOTA, 0.0)
    assert breaker.hold(0.0) == 30.0


def test_a_hold_lasts_as_long_as_the_latest_wish(breaker: Breaker) -> None:
    """Also where another, shorter hold has begun already."""
    fail(breaker, 0.0)
    breaker.answered(QUOTA, 0.5)
    assert breaker.hold(0.5) == 30.0


def test_a_service_that_is_down_may_say_for_how_long(breaker: Breaker) -> None:
    fail(breaker, 0.0, Outcome(verdict=Verdict.UNAVAILABLE, reason="down", retry_after=45.0))
    assert breaker.hold(0.0) == 45.0


def test_being_throttled_again_and_again_doubles_the_wait(breaker: Breaker) -> None:
    breaker.answered(SLOW_DOWN, 0.0)
    assert breaker.hold(0.0) == 1.0
    probed(breaker, 1.0)
    breaker.answered(SLOW_DOWN, 1.0)
    assert breaker.hold(1.0) == 2.0


def test_a_wait_that_is_asked_for_is_taken_at_its_word(breaker: Breaker) -> None:
    """Nothing is added to it, however short it is."""
    breaker.answered(SHORT_QUOTA, 0.0)
    assert breaker.hold(0.0) == 0.25


NOBODY = Outcome(verdict=Verdict.THROTTLED, reason="too many", scope=Scope.UNNAMED, retry_after=60.0)


@pytest.mark.parametrize("other", [None, REJECTED])
def test_being_throttled_without_a_name_is_the_targets_while_others_pass(
    breaker: Breaker, other: Outcome | None
) -> None:
    for _ in range(10):
        for _ in range(rules.THROTTLED_TO_HOLD - 1):
            assert not breaker.answered(NOBODY, 0.0)
        if other is None:
            breaker.accepted(1, 0.0)
        else:
            breaker.answered(other, 0.0)
    assert breaker.cause is None


@pytest.mark.parametrize("between", [None, DEVICE])
def test_when_everybody_is_throttled_it_is_the_routes(breaker: Breaker, between: Outcome | None) -> None:
    for _ in range(rules.THROTTLED_TO_HOLD - 1):
        breaker.answered(NOBODY, 0.0)
    if between is not None:
        assert not breaker.answered(between, 0.0), "which names its target"
    assert breaker.answered(NOBODY, 0.0)
    assert (breaker.cause, breaker.hold(0.0)) == (Cause.THROTTLED, 60.0)


def test_a_probe_that_is_throttled_holds_again(breaker: Breaker) -> None:
    breaker.answered(QUOTA, 0.0)
    probed(breaker, 30.0)
    assert breaker.answered(NOBODY, 30.0)
    assert breaker.hold(30.0) == 60.0


def test_a_credential_that_is_wrong_for_one_target_stops_nobody(breaker: Breaker) -> None:
    breaker.answered(Outcome(verdict=Verdict.CREDENTIAL, scope=Scope.TARGET, retry_after=300.0), 0.0)
    assert breaker.cause is None


class TestSharing:
    """Routes that share what is in trouble hold together, and probe each for itself."""

    def test_a_hold_is_joined_for_as_long_as_it_lasts(self, breaker: Breaker) -> None:
        other = Breaker(0.5)
        other.answered(REFUSED, 0.0)
        assert breaker.join(other, 10.0)
        assert (breaker.cause, breaker.reason, breaker.hold(10.0)) == (Cause.CREDENTIAL, "bad key", 50.0)
        probed(breaker, 60.0)
        breaker.accepted(1, 60.0)
        assert (breaker.cause, other.cause) == (None, Cause.CREDENTIAL)

    def test_a_credential_that_is_minted_anew_is_no_trouble_of_others(self, breaker: Breaker) -> None:
        """They have minted their own."""
        other = Breaker(0.5)
        other.answered(EXPIRED, 0.0)
        assert not breaker.join(other, 0.0)
        assert breaker.cause is None

    def test_the_last_moments_of_a_hold_are_as_short_here(self, breaker: Breaker) -> None:
        other = Breaker(0.5)
        other.answered(QUOTA, 0.0)
        assert breaker.join(other, 29.5)
        assert breaker.hold(29.5) == 0.5

    def test_a_graver_hold_is_not_replaced(self, breaker: Breaker) -> None:
        other = Breaker(0.5)
        other.answered(QUOTA, 0.0)
        breaker.answered(REFUSED, 0.0)
        assert not breaker.join(other, 0.0)
        assert (breaker.cause, breaker.hold(0.0)) == (Cause.CREDENTIAL, rules.CREDENTIAL_HOLD)


class TestForgiving:
    """Another credential signs."""

    def test_what_the_former_one_was_refused_for_is_over(self, breaker: Breaker) -> None:
        """And a hold that begins then lasts as long as its own cause wants."""
        breaker.answered(REFUSED, 0.0)
        breaker.forgive()
        assert (breaker.cause, breaker.reason, breaker.allowance(0.0, 5)) == (None, "", None)
        breaker.answered(SHORT_QUOTA, 0.0)
        assert breaker.hold(0.0) == SHORT_QUOTA.retry_after

    def test_so_is_the_suspicion_of_its_targets(self) -> None:
        """Dead ones are counted anew."""
        breaker = proven()
        for _ in range(rules.GUARD_ANSWERS + rules.GUARD_ANSWERS // 2):
            breaker.answered(DEAD, 0.0)
        breaker.forgive()
        assert not breaker.suspicious
        for _ in range(rules.GUARD_ANSWERS - 1):
            assert not breaker.answered(DEAD, 0.0)
        assert breaker.answered(DEAD, 0.0)

    def test_it_has_to_prove_itself(self) -> None:
        breaker = proven()
        breaker.forgive()
        assert not breaker.believes(BAD)

    @pytest.mark.parametrize("outcome", [UNAVAILABLE, QUOTA])
    def test_the_services_own_trouble_stays(self, breaker: Breaker, outcome: Outcome) -> None:
        fail(breaker, 0.0, outcome)
        before = breaker.cause, breaker.hold(0.5)
        breaker.forgive()
        assert (breaker.cause, breaker.hold(0.5)) == before


class TestTrust:
    """Whether tokens may be invalidated by what a route says."""

    def test_it_begins_with_the_first_acceptance(self, breaker: Breaker) -> None:
        for outcome in (DEAD, REJECTED, DEVICE, UNAVAILABLE):
            breaker.answered(outcome, 0.0)
            assert not breaker.believes(BAD)
        breaker.accepted(1, 0.0)
        assert breaker.believes(BAD)

    def test_it_ends_with_a_credential_that_is_refused(self) -> None:
        """Whoever replaces it may take another environment's."""
        breaker = proven()
        breaker.answered(REFUSED, 0.0)
        assert not breaker.believes(BAD)

    def test_it_outlives_a_credential_that_is_minted_anew(self) -> None:
        breaker = proven()
        breaker.answered(EXPIRED, 0.0)
        assert breaker.believes(BAD)

    def test_there_is_none_under_suspicion(self) -> None:
        breaker = proven()
        for _ in range(rules.GUARD_ANSWERS):
            breaker.answered(DEAD, 0.0)
        assert breaker.suspicious
        assert not breaker.believes(BAD)

    def test_a_route_of_which_nothing_was_ever_accepted_is_stopped_soon(self, breaker: Breaker) -> None:
        for _ in range(rules.UNPROVEN_ANSWERS - 1):
            assert not breaker.answered(BAD, 0.0)
        assert breaker.answered(BAD, 0.0)
        assert breaker.suspicious

    def test_what_no_setting_explains_is_believed_at_once(self, breaker: Breaker) -> None:
        """A single dead token on a gateway that has just started is told as what it is."""
        assert breaker.believes(DEAD)
        for _ in range(rules.GUARD_ANSWERS - 1):
            assert not breaker.answered(DEAD, 0.0)
        assert breaker.answered(DEAD, 0.0)
        assert not breaker.believes(DEAD)


@pytest.mark.parametrize("scope", [Scope.APP, Scope.CREDENTIAL, Scope.ORIGIN])
def test_only_a_throttled_target_waits_alone(breaker: Breaker, scope: Scope) -> None:
    breaker.answered(DEVICE, 0.0)
    assert breaker.cause is None
    breaker.answered(Outcome(verdict=Verdict.THROTTLED, scope=scope), 0.0)
    assert breaker.cause is Cause.THROTTLED


def test_a_refused_credential_holds_at_once(breaker: Breaker) -> None:
    assert breaker.answered(REFUSED, 0.0)
    assert (breaker.cause, breaker.reason) == (Cause.CREDENTIAL, "bad key")
    assert breaker.hold(0.0) == rules.CREDENTIAL_HOLD


def test_an_expired_credential_is_minted_anew_and_tried_at_once(breaker: Breaker) -> None:
    assert breaker.answered(EXPIRED, 0.0)
    probed(breaker, 0.0)
    breaker.accepted(1, 0.1)
    assert breaker.cause is None


def test_a_new_credential_that_is_refused_as_well_is_for_an_operator(breaker: Breaker) -> None:
    breaker.answered(EXPIRED, 0.0)
    probed(breaker, 0.0)
    assert breaker.answered(EXPIRED, 0.1)
    assert breaker.hold(0.1) == rules.CREDENTIAL_HOLD


@pytest.mark.parametrize("outcome", [UNKNOWN, Outcome(verdict=Verdict.UNSENT, reason="idle")])
def test_a_probe_without_an_answer_holds_again(breaker: Breaker, outcome: Outcome) -> None:
    fail(breaker, 0.0)
    probed(breaker, 1.0)
    breaker.answered(outcome, 16.0)
    assert breaker.hold(16.0) == 2.0


def test_a_probe_that_comes_back_unprocessed_holds_again(breaker: Breaker) -> None:
    """Otherwise a server that refuses every stream would be asked as fast as it refuses."""
    fail(breaker, 0.0)
    probed(breaker, 1.0)
    breaker.unsent(1, 1.0)
    assert breaker.hold(1.0) == 2.0


def test_requests_without_answers_count_where_nobody_gets_any(breaker: Breaker) -> None:
    """A service that hangs is down; a connection that breaks among others that work is not."""
    breaker.accepted(1, 100.0)
    fail(breaker, 100.0 + rules.SILENCE, UNKNOWN)
    assert breaker.cause is None
    fail(breaker, 100.1 + rules.SILENCE, UNKNOWN)
    assert breaker.cause is Cause.UNAVAILABLE


def test_a_service_that_never_said_anything_is_silent(breaker: Breaker) -> None:
    fail(breaker, 0.0, UNKNOWN)
    assert breaker.cause is Cause.UNAVAILABLE


def test_a_service_that_says_no_is_not_silent(breaker: Breaker) -> None:
    """Whatever it answers, it is heard, and what came back unprocessed before was its connection's."""
    breaker.unsent(rules.UNSENT_TO_HOLD - 1, 99.0)
    breaker.answered(UNAVAILABLE, 100.0)
    assert not breaker.unsent(rules.UNSENT_TO_HOLD - 1, 100.0)
    fail(breaker, 100.0 + rules.SILENCE, UNKNOWN)
    assert breaker.cause is None


def test_a_goaway_with_a_connection_full_of_unprocessed_requests_is_nothing(breaker: Breaker) -> None:
    for _ in range(10):
        breaker.unsent(1000, 0.0)
        breaker.accepted(1, 0.0)
    assert breaker.cause is None


def test_refusing_everything_is_being_down(breaker: Breaker) -> None:
    breaker.accepted(1, 0.0)
    assert not breaker.unsent(rules.UNSENT_TO_HOLD - 1, 0.0)
    assert breaker.cause is None
    assert breaker.unsent(1, 0.0)
    assert breaker.cause is Cause.UNAVAILABLE


class TestGuard:
    """A sudden share of dead targets is a wrong setting."""

    @pytest.fixture
    def suspicious(self, breaker: Breaker) -> Breaker:
        breaker.accepted(rules.GUARD_ANSWERS // 2 - 1, 0.0)
        for _ in range(rules.GUARD_ANSWERS // 2 + 1):
            breaker.answered(DEAD, 0.0)
        assert breaker.suspicious
        return breaker

    def test_few_answers_prove_nothing(self) -> None:
        breaker = proven()
        for _ in range(rules.GUARD_ANSWERS - 1):
            breaker.answered(DEAD, 0.0)
        assert not breaker.suspicious

    def test_a_share_below_the_limit_is_life(self, breaker: Breaker) -> None:
        for _ in range(3 * rules.GUARD_ANSWERS):
            breaker.accepted(1, 0.0)
            breaker.answered(DEAD, 0.0)
        assert not breaker.suspicious

    def test_what_was_long_ago_does_not_count(self) -> None:
        breaker = proven()
        for minute in range(10):
            for _ in range(rules.GUARD_ANSWERS - 1):
                breaker.answered(DEAD, 61.0 * minute)
        assert not breaker.suspicious

    @pytest.mark.parametrize(("later", "suspicious"), [(rules.GUARD_WINDOW, True), (rules.GUARD_WINDOW + 0.1, False)])
    def test_what_is_within_a_minute_counts_together(self, later: float, suspicious: bool) -> None:
        breaker = proven()
        for now in (0.0, later):
            for _ in range(rules.GUARD_ANSWERS // 2):
                breaker.answered(DEAD, now)
        assert breaker.suspicious is suspicious

    def test_it_stops_the_route(self, suspicious: Breaker) -> None:
        assert suspicious.hold(0.0) == rules.MISCONFIGURED_HOLD
        assert suspicious.reason == "251 of 500 targets are dead"

    def test_late_answers_do_not_prolong_it(self, suspicious: Breaker) -> None:
        for _ in range(3 * rules.GUARD_ANSWERS):
            suspicious.answered(DEAD, 10.0)
        assert suspicious.hold(10.0) == rules.MISCONFIGURED_HOLD - 10

    def test_the_latest_answers_neither_prolong_nor_renew_it(self, suspicious: Breaker) -> None:
        """What the probe says counts, however many dead ones were told just before."""
        now = rules.MISCONFIGURED_HOLD - 0.5
        for _ in range(rules.GUARD_ANSWERS):
            assert not suspicious.answered(DEAD, now)
        assert suspicious.hold(now) == 0.5
        probed(suspicious, now + 0.5)
        suspicious.accepted(1, now + 0.5)
        assert suspicious.cause is None

    def test_it_takes_over_from_any_other_hold(self, breaker: Breaker) -> None:
        """Else the answers that are still to come would invalidate targets while the route waits for another reason."""
        breaker.answered(QUOTA, 0.0)
        for _ in range(rules.GUARD_ANSWERS):
            breaker.answered(DEAD, 0.0)
        assert breaker.suspicious
        assert breaker.hold(0.0) == rules.MISCONFIGURED_HOLD

    @pytest.mark.parametrize("outcome", [DEAD, UNAVAILABLE, REFUSED, QUOTA, UNKNOWN])
    def test_suspicion_outlives_a_probe_that_does_not_clear_it(self, suspicious: Breaker, outcome: Outcome) -> None:
        now = rules.MISCONFIGURED_HOLD
        probed(suspicious, now)
        suspicious.answered(outcome, now)
        assert suspicious.suspicious
        assert (suspicious.hold(now) or 0) > 0

    @pytest.mark.parametrize("outcome", [None, REJECTED, DEVICE])
    def test_a_target_that_lives_clears_it(self, suspicious: Breaker, outcome: Outcome | None) -> None:
        now = rules.MISCONFIGURED_HOLD
        probed(suspicious, now)
        if outcome is None:
            suspicious.accepted(1, now)
        else:
            suspicious.answered(outcome, now)
        assert suspicious.cause is None

    def test_it_counts_anew_after_its_end(self, suspicious: Breaker) -> None:
        now = rules.MISCONFIGURED_HOLD
        probed(suspicious, now)
        suspicious.accepted(1, now)
        suspicious.answered(DEAD, now)
        assert suspicious.cause is None


OUTCOMES = [UNAVAILABLE, UNKNOWN, REJECTED, DEAD, REFUSED, EXPIRED, QUOTA, SLOW_DOWN, DEVICE, NOBODY]


def breaker_grew(breaker: Breaker, before: Cause | None) -> bool:
    """Whether the trouble became worse."""
    return breaker.cause is not before and breaker.cause in (Cause.CREDENTIAL, Cause.MISCONFIGURED)


class Route(RuleBasedStateMachine):
    """Requests that go when they may, and any answers in any order: what must be so whatever happens."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(0.5)
        self.now = 0.0
        self.on_wire = 0

    @rule(wanted=st.integers(1, 600))
    def send(self, wanted: int) -> None:
        allowed = self.breaker.allowance(self.now, self.on_wire)
        count = wanted if allowed is None else min(wanted, allowed)
        if allowed:
            assert self.on_wire == 0, "a probe is alone"
            assert self.breaker.hold(self.now) == 0
            self.breaker.probe()
        self.on_wire += count

    @rule(seconds=st.sampled_from([0.1, 1.0, 15.0, 60.0, 300.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.on_wire)
    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, self.on_wire))
        self.on_wire -= count
        self.breaker.accepted(count, self.now)

    @precondition(lambda self: self.on_wire)
    @rule(data=st.data())
    def unsent(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, self.on_wire))
        self.on_wire -= count
        self.breaker.unsent(count, self.now)

    @precondition(lambda self: self.on_wire)
    @rule(outcome=st.sampled_from(OUTCOMES), data=st.data())
    def answer(self, outcome: Outcome, data: st.DataObject) -> None:
        suspicious = self.breaker.suspicious
        held, cause = bool(self.breaker.hold(self.now)), self.breaker.cause
        for _ in range(data.draw(st.integers(1, self.on_wire))):
            self.on_wire -= 1
            began = self.breaker.answered(outcome, self.now)
            assert not (began and held) or breaker_grew(self.breaker, cause), "a hold begins once"
            held, cause = held or began, self.breaker.cause
        if suspicious and outcome.verdict not in (Verdict.REJECTED, Verdict.THROTTLED):
            assert self.breaker.suspicious

    @invariant()
    def a_hold_ends(self) -> None:
        hold = self.breaker.hold(self.now)
        assert hold is None or 0 <= hold < rules.MISCONFIGURED_HOLD + 1

    @invariant()
    def a_cause_comes_with_a_hold(self) -> None:
        assert (self.breaker.hold(self.now) is None) == (self.breaker.cause is None)

    def teardown(self) -> None:
        """Whatever was, a service that works again gets everything: by one probe, alone."""
        self.breaker.unsent(self.on_wire, self.now)
        self.now += rules.MISCONFIGURED_HOLD + 1
        if self.breaker.cause is not None:
            probed(self.breaker, self.now)
            self.breaker.accepted(1, self.now)
        assert self.breaker.allowance(self.now, 0) is None


Route.TestCase.settings = settings(max_examples=150, stateful_step_count=30)
test_whatever_comes_the_route_recovers = Route.TestCase
