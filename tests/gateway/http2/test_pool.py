"""As many connections as are needed, opened one at a time, ahead of need, and not as an attack."""

from __future__ import annotations

import asyncio
import random
import ssl
from itertools import pairwise
from typing import Any

import pytest

from gateway.http2 import pool as rules
from gateway.http2.pool import Address, Counts, DialFailure, Pool, tls_context
from tests.gateway.http2.requests import Source
from tests.gateway.virtual import Answer, Behaviour, Fault, Service, until, virtual_loop

LOOPS = ("virtual",)

TIMEOUT = 15.0
HANG = Fault("hang")


def then(answer: Answer | Fault) -> Behaviour:
    """The first request is answered at once, so that the others may go, and these so."""
    return lambda path: Answer() if path == "/0" else answer


class Rig:
    """A pool whose clock somebody turns, as the dispatcher does."""

    def __init__(self, service: Service | None, source: Source, *, limit: int = 4, busy: float = 0.0) -> None:
        if service is not None:
            virtual_loop().serve("push.example", service)
        self.service = service or Service()
        self.source = source
        self.busy = busy
        self.pool = Pool(
            Address("push.example", 443),
            ssl.create_default_context(),
            source,
            source,
            limit=limit,
            request_timeout=TIMEOUT,
            connect_timeout=10.0,
            busy=lambda: self.busy,
            jitter=random.Random(1),
        )
        self.clock = virtual_loop().create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            self.pool.tick(virtual_loop().time())
            await asyncio.sleep(0.1)

    def more(self, count: int) -> None:
        start = self.source.done + len(self.source.on_wire) + len(self.source.waiting)
        self.source.waiting += range(start, start + count)
        self.pool.wake()


def rig(
    behave: Behaviour | None = None,
    count: int = 0,
    *,
    streams: int = 100,
    latency: float = 0.01,
    body: bytes = b"{}",
    **more: Any,
) -> Rig:
    return Rig(Service(behave, streams=streams, latency=latency), Source(count, body=body), **more)


def hold_of(pool: Pool) -> float:
    hold = pool.hold(virtual_loop().time())
    assert hold is not None
    return hold


async def test_a_pool_has_a_connection_before_there_is_work() -> None:
    """A one-time code must not wait for a handshake."""
    it = rig()
    await asyncio.sleep(1.0)
    assert it.pool.counts() == Counts(dialling=0, open=1, draining=0, streams=0)
    start = virtual_loop().time()
    it.more(1)
    await until(lambda: it.source.accepted)
    assert virtual_loop().time() - start < 0.05


async def test_new_work_is_sent_when_it_is_told_of() -> None:
    it = rig()
    await asyncio.sleep(1.0)
    it.clock.cancel()
    it.more(10)
    await until(lambda: it.source.done == 10)


class TestGrowth:
    async def test_while_a_connection_has_room_there_is_no_other(self) -> None:
        it = rig(then(Answer(delay=1.0)), count=90)
        for _ in range(20):
            await asyncio.sleep(2.0)
            it.more(90)
        await until(lambda: it.source.done == 21 * 90)
        assert len(it.service.dials) == 1

    async def test_it_grows_while_the_peer_limits_and_there_is_work(self) -> None:
        it = rig(lambda path: Answer(delay=1.0), 5000, streams=10)
        await until(lambda: it.pool.counts().open == 4, 10.0)
        await asyncio.sleep(10.0)
        assert len(it.service.dials) == 4, "and no further than its limit"

    async def test_before_any_answer_there_are_no_more_than_two(self) -> None:
        """Each waits for its first answer; that is no limit of the peer that more of them would help against."""
        it = rig(lambda path: Answer(delay=2.0), 500, limit=8)
        await asyncio.sleep(2.0)
        assert len(it.service.dials) == 2
        await until(lambda: it.source.done == 500)

    async def test_a_small_window_is_a_limit_as_well(self) -> None:
        it = rig(count=3000, body=bytes(4000), latency=0.1)
        await until(lambda: it.pool.counts().open > 1, 10.0)

    async def test_one_connection_is_opened_at_a_time(self) -> None:
        it = rig(then(Answer(delay=30.0)), 5000, streams=10, latency=1.0)
        while it.pool.counts().open < 4:
            await asyncio.sleep(0.05)
            assert it.pool.counts().dialling <= 1
        gaps = [later - dial for dial, later in zip(it.service.dials, it.service.dials[1:], strict=False)]
        assert min(gaps) >= 3.0, "a handshake takes three times the latency"

    async def test_it_does_not_grow_while_this_process_is_busy(self) -> None:
        """Another connection would not make it faster, and every slice smaller."""
        it = rig(lambda path: Answer(delay=1.0), 500, streams=10, busy=0.95)
        await asyncio.sleep(10.0)
        assert len(it.service.dials) == 1
        it.busy = 0.5
        await until(lambda: it.pool.counts().open > 1, 10.0)

    async def test_work_is_shared_by_all_that_have_room(self) -> None:
        it = rig(lambda path: Answer(delay=1.0), 5000, streams=10)
        await until(lambda: it.pool.counts().open == 4, 10.0)
        await asyncio.sleep(2.0)
        assert it.pool.counts().streams == 40
        it.source.waiting.clear()
        await until(lambda: not it.source.on_wire)
        it.more(8)
        it.more(8)
        assert it.pool.counts().streams == 16

    async def test_when_one_gets_nothing_the_others_are_not_asked(self) -> None:
        """What the source has none of for one connection, as where the rate is used up, it has none of for all."""
        it = rig(lambda path: Answer(delay=1.0), 5000, streams=10)
        await until(lambda: it.pool.counts().open == 4, 10.0)
        it.source.waiting.clear()
        await until(lambda: not it.source.on_wire)
        it.source.waiting, it.source.slice = [1], 0
        it.source.takes.clear()
        it.pool.wake()
        assert len(it.source.takes) == 1


class TestBackOff:
    async def test_it_dials_less_and_less_often_and_never_rarer_than_the_ceiling(self) -> None:
        it = rig()
        it.service.refuses = ConnectionRefusedError(111, "Connection refused")
        await asyncio.sleep(3 * 3600.0)
        gaps = [later - dial for dial, later in zip(it.service.dials, it.service.dials[1:], strict=False)]
        assert max(gaps[:3]) < 5.0
        assert max(gaps) <= rules.BACKOFF_CEILING + 0.2
        assert len(gaps) < 3 * 3600 / 8
        assert len({round(gap) for gap in gaps[8:]}) > 15, "and at no moment at which others do"

    async def test_it_goes_on_for_days(self) -> None:
        """An exponent that grows with every failure is too large for a float at some time."""
        it = rig()
        it.service.refuses = ConnectionRefusedError(111, "Connection refused")
        it.pool._failures = 5000
        await asyncio.sleep(300.0)
        assert 12 < len(it.service.dials) < 60
        it.service.refuses = None
        await until(lambda: it.pool.counts().open, 70.0)

    async def test_the_first_answer_ends_it(self) -> None:
        it = rig(count=1)
        it.service.refuses = ConnectionRefusedError(111, "Connection refused")
        await asyncio.sleep(600.0)
        it.service.refuses = None
        await until(lambda: it.source.accepted, 61.0)
        assert it.pool.failure is None
        assert it.pool.hold(virtual_loop().time()) is None
        it.service.sessions[-1].transport.cut()
        await until(lambda: it.pool.counts().open == 1, 1.0)

    async def test_a_connection_alone_does_not_end_it(self) -> None:
        """A server that takes connections and answers nothing is not to be stormed either."""
        it = rig(lambda path: Fault("cut"), 10)
        await asyncio.sleep(600.0)
        assert len(it.service.dials) < 100

    async def test_a_server_that_says_goaway_to_every_request_is_not_stormed(self) -> None:
        it = rig(lambda path: Fault("goaway"), 10)
        await asyncio.sleep(600.0)
        assert len(it.service.dials) < 150
        assert not it.source.unknown
        it.service.behave = lambda path: Answer()
        await until(lambda: it.source.done == 10, 70.0)

    async def test_a_server_that_asks_for_calm_gets_it(self) -> None:
        """Though it answers one request each time before it does."""
        calls = 0

        def answer_one(path: str) -> Answer | Fault:
            nonlocal calls
            calls += 1
            if calls % 2:
                return Answer()
            it.service.open[-1].goaway(0, code=0xB)
            return HANG

        it = rig(answer_one, 200)
        await asyncio.sleep(20.0)
        gaps = [later - dial for dial, later in zip(it.service.dials, it.service.dials[1:], strict=False)]
        assert len(gaps) > 5
        assert min(gaps) >= rules.BACKOFF_FLOOR / 4

    async def test_a_server_that_closes_idle_connections_is_asked_again_soon(self) -> None:
        """Nothing is wrong with it: who comes next must not wait for a back-off, nor shall it spin."""
        it = rig()
        for _ in range(20):
            await until(lambda: it.pool.counts().open, 3.0)
            await asyncio.sleep(0.5)
            assert it.pool.failure is None
            it.service.open[0].transport.cut()
            await asyncio.sleep(0.1)
        gaps = [later - dial for dial, later in zip(it.service.dials, it.service.dials[1:], strict=False)]
        assert min(gaps) >= rules.BACKOFF_FLOOR

    async def test_a_minute_has_so_many_dials(self) -> None:
        """Connections that work for a moment and end are not dialled for ever either."""
        test = rig(lambda path: Answer(), 1)
        for _ in range(3000):
            await asyncio.sleep(0.1)
            test.more(1)
            for session in test.service.open:
                if not session.unanswered and test.source.accepted:
                    session.goaway(0)
        dials = test.service.dials
        assert max(sum(at <= other < at + 60 for other in dials) for at in dials) <= rules.DIALS_A_MINUTE
        assert len(dials) > 4 * rules.DIALS_A_MINUTE, "they are not fewer than allowed either"

    async def test_after_a_failure_one_connection_has_to_be_answered_before_there_is_another(self) -> None:
        """A service that comes back is met by one connection, not by all."""
        test = rig(lambda path: Fault("hang"), 500, streams=10)
        test.service.refuses = ConnectionRefusedError(111, "Connection refused")
        await until(lambda: len(test.service.dials) == 3)
        test.service.refuses = None
        await until(lambda: len(test.service.open) == 1)
        await asyncio.sleep(10.0)
        assert len(test.service.open) == 1
        test.service.behave = lambda path: Answer()
        for number in sorted(test.service.sessions[0].unanswered):
            test.service.sessions[0].answer(number)
        await until(lambda: len(test.source.accepted) == 500)

    async def test_a_connection_that_resets_everything_is_not_replaced_at_once(self) -> None:
        test = rig(then(Fault("reset")), 3000, limit=1)
        await until(lambda: len(test.service.dials) == 4)
        dials = test.service.dials
        assert all(later - earlier > rules.BACKOFF_FLOOR / 4 for earlier, later in pairwise(dials))

    async def test_new_work_does_not_cut_it_short(self) -> None:
        it = rig()
        it.service.refuses = ConnectionRefusedError(111, "Connection refused")
        await asyncio.sleep(300.0)
        before, hold = len(it.service.dials), hold_of(it.pool)
        it.more(1)
        await asyncio.sleep(hold / 2)
        assert len(it.service.dials) == before


CERTIFICATE = ssl.SSLCertVerificationError()
CERTIFICATE.verify_message = "self-signed certificate"


class TestFailures:
    @pytest.mark.parametrize(
        ("error", "failure"),
        [
            (ConnectionRefusedError(111, "Connection refused"), DialFailure("refused", "Connection refused")),
            (OSError("no words"), DialFailure("refused", "the connection was refused or reset")),
            (
                CERTIFICATE,
                DialFailure("tls", "the server's certificate is not trusted: self-signed certificate"),
            ),
            (ssl.SSLError(1, "handshake"), DialFailure("tls", "the TLS handshake failed: handshake")),
            (UnicodeError("idna"), DialFailure("refused", "the host's name cannot be resolved")),
            (ValueError("server_hostname"), DialFailure("refused", "the host's name cannot be resolved")),
        ],
    )
    async def test_each_is_told_by_its_kind(self, error: Exception, failure: DialFailure) -> None:
        it = rig(count=1)
        it.service.refuses = error
        await until(lambda: it.source.dials, 1.0)
        assert it.source.dials[0] == it.pool.failure == failure
        assert hold_of(it.pool) > 0
        it.service.refuses = None
        await until(lambda: it.source.accepted, 30.0)

    async def test_a_silent_host_takes_the_connect_timeout(self) -> None:
        it = rig(count=1)
        it.service.silent = True
        await asyncio.sleep(9.9)
        assert it.source.dials == []
        await asyncio.sleep(0.5)
        assert it.source.dials == [DialFailure("timeout", "no connection within 10 s")]

    async def test_a_server_without_http2_gets_nothing(self) -> None:
        it = rig(count=1)
        it.service.alpn = "http/1.1"
        await until(lambda: it.source.dials, 1.0)
        assert it.source.dials[0] is not None
        assert it.source.dials[0].kind == "alpn"
        assert it.source.waiting == [0]

    async def test_a_server_that_ends_before_it_speaks_is_told_as_closed(self) -> None:
        it = rig()
        it.service.settles = False
        await until(lambda: it.service.open, 1.0)
        it.service.open[0].transport.cut()
        await asyncio.sleep(0.05)
        assert it.pool.failure is not None
        assert it.pool.failure.kind == "closed"

    async def test_a_failed_attempt_is_no_failure_while_other_connections_work(self) -> None:
        it = rig(then(Answer(delay=1.0)), 500, streams=10)
        await until(lambda: it.source.accepted)
        it.service.refuses = ConnectionRefusedError(111, "Connection refused")
        await until(lambda: it.source.dials[-1] is not None, 5.0)
        assert it.pool.failure is None
        assert it.pool.hold(virtual_loop().time()) is None


class TestReplacing:
    async def test_the_replacement_is_opened_before_a_draining_connection_ends(self) -> None:
        it = rig(then(Answer(delay=5.0)), 11)
        await until(lambda: it.service.taken == 11)
        (session,) = it.service.sessions
        session.goaway(2**31 - 1)
        await until(lambda: it.pool.counts() == Counts(dialling=0, open=1, draining=1, streams=10), 1.0)
        assert it.source.farewells == [(0, b"")]
        await until(lambda: len(it.source.accepted) == 11, 10.0)
        await until(lambda: it.pool.counts().draining == 0, 1.0)

    async def test_what_was_not_processed_goes_to_the_replacement(self) -> None:
        it = rig(lambda path: Answer(delay=0.0 if path == "/0" else 2.0), 50)
        await until(lambda: it.service.taken == 50)
        it.service.sessions[0].goaway(21)
        it.service.sessions[0].unanswered -= set(range(23, 200))
        await until(lambda: it.source.done == 50, 10.0)
        assert len(it.source.accepted) == 50
        assert sum(it.source.unsent.values()) == 39
        assert not it.source.unknown

    async def test_an_answer_in_the_same_read_as_a_goaway_counts(self) -> None:
        it = rig(lambda path: Fault("hang"), 1)
        await until(lambda: it.service.taken)
        it.pool._failures = 7
        session = it.service.sessions[0]
        session.h2.send_headers(1, [(":status", "200")], end_stream=True)
        session.transport._protocol.data_received(  # type: ignore[attr-defined]
            session.h2.data_to_send() + b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + bytes((0, 0, 0, 1, 0, 0, 0, 0))
        )
        assert it.source.accepted == [0]
        assert it.pool._failures == 0
        assert it.source.farewells == [(0, b"")], "told once"

    async def test_replacing_drains_all_and_opens_new_ones(self) -> None:
        """What they were opened with, such as an old provider token, is no longer good."""
        it = rig(then(Answer(delay=3.0)), 31)
        await until(lambda: len(it.source.on_wire) == 30)
        old = it.service.open
        it.pool.replace()
        it.service.behave = lambda path: Answer()
        it.more(10)
        await until(lambda: it.source.done == 41, 10.0)
        assert len(it.source.accepted) == 41
        assert not set(old) & set(it.service.open)
        assert it.pool.counts() == Counts(dialling=0, open=1, draining=0, streams=0)

    async def test_a_lost_connection_is_replaced_though_there_is_no_work(self) -> None:
        it = rig(count=1)
        await until(lambda: it.source.accepted)
        it.service.open[0].transport.cut()
        await until(lambda: len(it.service.dials) == 2, 1.0)


class TestClosing:
    async def test_open_requests_may_finish(self) -> None:
        it = rig(lambda path: Answer(delay=2.0), 10)
        await until(lambda: len(it.source.on_wire) == 10)
        start = virtual_loop().time()
        await it.pool.close(5.0)
        assert virtual_loop().time() - start < 2.5
        assert len(it.source.accepted) == 10
        assert not it.service.open

    async def test_but_not_longer_than_the_deadline(self) -> None:
        it = rig(lambda path: HANG, 1)
        await until(lambda: it.source.on_wire)
        start = virtual_loop().time()
        await it.pool.close(5.0)
        assert virtual_loop().time() - start == pytest.approx(5.0, abs=0.2)
        assert it.source.unknown == {0: "shut down"}
        assert it.pool.counts() == Counts(0, 0, 0, 0)

    async def test_while_dialling(self) -> None:
        it = rig(count=1)
        it.service.silent = True
        await until(lambda: it.service.dials)
        await it.pool.close(5.0)
        assert it.pool.counts() == Counts(0, 0, 0, 0)

    async def test_afterwards_nothing_is_opened_any_more(self) -> None:
        it = rig(count=1)
        await until(lambda: it.source.accepted)
        await it.pool.close(5.0)
        it.more(1)
        await asyncio.sleep(60.0)
        assert len(it.service.dials) == 1
        assert it.source.waiting


@pytest.mark.parametrize("seed", range(3))
async def test_after_any_storm_everything_is_accounted_for_and_works(seed: int) -> None:
    """Whatever a service did, each request comes back once, and no stream or connection is left behind."""
    draw = random.Random(seed)
    faults = ["hang", "refuse", "reset", "cut", "goaway"]

    def storm(path: str) -> Answer | Fault:
        if draw.random() < 0.15:
            return Fault(draw.choice(faults))
        status = draw.choice([200, 200, 200, 410])
        return Answer(status, b"" if status == 200 else b"{}", delay=draw.random())

    it = rig(storm, 2000, streams=50)
    total = 2000
    for _ in range(120):
        await asyncio.sleep(draw.random())
        match draw.randrange(8):
            case 0 if it.service.open:
                it.service.open[0].transport.cut()
            case 1 if it.service.open:
                draw.choice(it.service.open).goaway(2**31 - 1)
            case 2:
                it.service.refuses = draw.choice([None, ConnectionRefusedError(111, "Connection refused")])
            case 3:
                it.service.silent = draw.random() < 0.3
            case 4:
                it.pool.replace()
            case 5:
                it.more(50)
                total += 50
            case _:
                pass
    it.service.behave = lambda path: Answer()
    it.service.refuses, it.service.silent = None, False
    await until(lambda: it.source.done == total, 300.0)
    await asyncio.sleep(TIMEOUT + rules.BACKOFF_CEILING + 30.0)
    counts = it.pool.counts()
    assert (counts.streams, counts.draining, counts.dialling) == (0, 0, 0)
    assert not it.source.on_wire
    assert len(it.service.open) == counts.open <= 4
    assert it.pool.failure is None
    assert max(it.service.paths.values()) == 1, "what came back as unprocessed was not, and nothing went twice"
    answered = [*it.source.accepted, *it.source.answered]
    assert all(it.service.paths[f"/{number}"] == 1 for number in answered)


class TestAddress:
    @pytest.mark.parametrize(
        ("origin", "address"),
        [
            ("https://push.example", ("push.example", 443)),
            ("https://push.example:8443/", ("push.example", 8443)),
            ("https://[::1]:1", ("::1", 1)),
        ],
    )
    def test_of_an_origin(self, origin: str, address: tuple[str, int]) -> None:
        assert Address.of(origin) == address

    @pytest.mark.parametrize(
        "origin", ["http://push.example", "https://", "https://push.example/x", "push.example", "https://a:99999"]
    )
    def test_of_anything_else(self, origin: str) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - some are urllib's own
            Address.of(origin)


def test_tls_is_verified_and_offers_http2_alone() -> None:
    context = tls_context(None)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
