"""A protocol with a socket: what it pulls, what it writes, and what it does about those who do not answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.http2 import connection as rules
from gateway.http2.connection import Connection
from gateway.http2.protocol import Phase
from tests.gateway.http2.requests import Source
from tests.gateway.virtual import Answer, Fault, Service, until, virtual_loop

LOOPS = ("virtual",)

TIMEOUT = 15.0


class Rig:
    """A connection to a service, and somebody who sweeps it as its pool would."""

    def __init__(self, source: Source, service: Service) -> None:
        self.source = source
        self.service = service
        self.firsts = 0
        self.changes: list[Phase] = []

    async def open(self) -> Connection:
        loop = virtual_loop()
        loop.serve("push.example", self.service)
        _, self.connection = await loop.create_connection(self._make, "push.example", 443)
        self.sweeper = loop.create_task(self._sweep())
        return self.connection

    def _make(self) -> Connection:
        return Connection(
            self.source, request_timeout=TIMEOUT, on_answer=self._answered, on_change=self._changed, number=1
        )

    def _answered(self) -> None:
        self.firsts += 1

    def _changed(self, connection: Connection) -> None:
        self.changes.append(connection.protocol.phase)

    async def _sweep(self) -> None:
        while self.connection.lost is None:
            await asyncio.sleep(0.1)
            self.connection.sweep(virtual_loop().time())

    async def lost(self, seconds: float = 120.0) -> str:
        await until(lambda: self.changes and self.connection.lost is not None, seconds)
        assert not self.source.on_wire, "everything came back"
        assert self.connection.protocol.open_streams == 0
        return str(self.connection.lost)


async def opened(count: int = 0, service: Service | None = None, **more: Any) -> Rig:
    rig = Rig(Source(count, **more), service or Service())
    await rig.open()
    return rig


async def test_everything_that_waits_is_taken_sent_and_settled() -> None:
    rig = await opened(1000)
    await until(lambda: len(rig.source.accepted) == 1000)
    assert rig.service.taken == 1000
    assert max(rig.service.paths.values()) == 1


async def test_one_request_goes_first_and_the_others_after_its_answer() -> None:
    """APNs lowers its limit to one for token authentication; what is over it when that arrives is refused."""
    rig = await opened(50, Service(lambda path: Answer(delay=0.5)))
    await until(lambda: rig.service.taken)
    await asyncio.sleep(0.4)
    assert rig.service.taken == 1
    await until(lambda: rig.firsts)
    await until(lambda: rig.service.taken == 50, 0.1)
    assert rig.firsts == 1


async def test_a_first_request_that_hangs_keeps_the_others_for_a_second_only() -> None:
    rig = await opened(50, Service(lambda path: Fault("hang") if path == "/0" else Answer()))
    await until(lambda: len(rig.source.accepted) == 49, 2.0)


async def test_patience_begins_with_the_first_request() -> None:
    """A connection opened ahead of need has waited long enough, but its server has not been asked yet."""
    rig = await opened(0, Service(lambda path: Answer(delay=0.5)))
    await asyncio.sleep(10.0)
    rig.source.waiting = list(range(50))
    rig.connection.pump()
    await asyncio.sleep(0.4)
    assert rig.service.taken == 1


async def test_no_more_streams_are_open_than_the_server_allows() -> None:
    rig = await opened(500, Service(lambda path: Answer(delay=0.2), streams=7))
    most = 0
    while len(rig.source.accepted) < 500:
        await asyncio.sleep(0.01)
        most = max(most, rig.connection.protocol.open_streams)
    assert most == 7


async def test_after_some_slices_others_of_the_loop_have_a_turn() -> None:
    rig = await opened(1, Service(streams=1000))
    await until(lambda: rig.firsts)
    rig.source.waiting = list(range(1, 1000))
    rig.source.slice = 10
    rig.connection.pump()
    assert len(rig.source.on_wire) == 10 * rules.SLICES_A_TURN
    await until(lambda: rig.source.done == 1000)


async def test_while_the_transport_is_full_nothing_is_taken() -> None:
    """Its bytes would only wait in memory, and their fate would be unknown if the process died."""
    rig = await opened(1)
    await until(lambda: rig.firsts)
    rig.connection.pause_writing()
    rig.source.waiting = list(range(1, 100))
    rig.connection.pump()
    await asyncio.sleep(5.0)
    assert rig.service.taken == 1
    rig.connection.resume_writing()
    await until(lambda: rig.source.done == 100)


async def test_what_does_not_fit_a_window_goes_back_unharmed() -> None:
    rig = await opened(200, Service(lambda path: Answer(delay=0.1)), body=bytes(4000))
    await until(lambda: rig.source.done == 200)
    assert rig.service.taken == 200
    assert rig.service.bodies == [bytes(4000)] * 200


class TestTimeouts:
    async def test_a_request_without_an_answer_is_reset_and_its_neighbours_go_on(self) -> None:
        rig = await opened(50, Service(lambda path: Fault("hang") if path == "/7" else Answer()))
        await until(lambda: rig.source.done == 50, TIMEOUT + 1)
        assert rig.source.unknown == {7: "timeout"}
        await asyncio.sleep(0.1)
        assert rig.service.sessions[0].resets == [15]
        assert rig.connection.usable
        rig.source.waiting = [50]
        rig.connection.pump()
        await until(lambda: rig.source.accepted[-1] == 50, 1.0)

    async def test_it_is_not_reset_too_early(self) -> None:
        rig = await opened(50, Service(lambda path: Answer(delay=TIMEOUT - 1.0)))
        await until(lambda: rig.source.done == 50, 60.0)
        assert len(rig.source.accepted) == 50

    async def test_an_answer_behind_the_reset_changes_nothing(self) -> None:
        rig = await opened(3, Service(lambda path: Answer(delay=5.0 if path == "/2" else TIMEOUT + 0.105)))
        await until(lambda: rig.source.done == 3, 60.0)
        assert set(rig.source.unknown) == {0, 1}
        await asyncio.sleep(5.0)
        assert rig.connection.usable

    async def test_a_connection_that_answers_nothing_at_all_is_replaced(self) -> None:
        """It may be this connection's backend alone; whether the route goes on is not the connection's question."""
        rig = await opened(10, Service(lambda path: Fault("hang")))
        await until(lambda: rig.source.unknown, TIMEOUT + 3)
        await rig.lost(TIMEOUT)
        assert rig.connection.retired == "no answer for as long as a request may take"
        assert len(rig.source.unknown) == 10

    async def test_one_that_answers_others_is_kept(self) -> None:
        rig = await opened(10, Service(lambda path: Fault("hang") if path == "/3" else Answer(delay=1.0)))
        await until(lambda: rig.source.unknown, TIMEOUT + 3)
        rig.source.waiting = [10]
        rig.connection.pump()
        await until(lambda: 10 in rig.source.accepted)


class TestFaultsOfThePeer:
    async def test_without_settings_it_is_given_up(self) -> None:
        service = Service(lambda path: Fault("hang"))
        service.settles = False
        rig = await opened(3, service)
        assert await rig.lost(rules.SETTINGS_DEADLINE + 1) == "no SETTINGS"
        assert rig.source.unknown == {0: "no SETTINGS"}
        assert rig.source.waiting == [1, 2]

    async def test_a_dead_peer_is_found_by_ping_before_all_its_requests_time_out(self) -> None:
        service = Service(lambda path: Fault("hang"))
        service.answers_pings = False
        rig = await opened(3, service)
        start = virtual_loop().time()
        assert await rig.lost() == "PING not answered"
        assert virtual_loop().time() - start < rules.SILENCE_BEFORE_PING + rules.PING_ANSWER_DEADLINE + 1

    async def test_a_live_peer_that_thinks_is_left_in_peace(self) -> None:
        rig = await opened(1, Service(lambda path: Answer(delay=TIMEOUT - 0.5)))
        await until(lambda: rig.source.accepted, TIMEOUT)
        assert rig.connection.usable

    async def test_an_idle_connection_is_pinged_an_hour_at_most(self) -> None:
        """Apple asks for it; other front ends punish frequent pings."""
        rig = await opened(1)
        await until(lambda: rig.firsts)
        written = rig.service.sessions[0].transport.written
        await asyncio.sleep(3 * 3600)
        assert rig.connection.usable
        assert rig.service.sessions[0].transport.written - written == 3 * 17, "three frames of PING"

    async def test_a_peer_that_reads_nothing_is_given_up(self) -> None:
        rig = await opened(1)
        await until(lambda: rig.firsts)
        rig.connection.pause_writing()
        rig.service.answers_pings = True
        assert await rig.lost(TIMEOUT + 1) == "the peer reads nothing"

    async def test_a_header_block_without_end_is_given_up(self) -> None:
        rig = await opened(1, Service(lambda path: Fault("hang")))
        await until(lambda: rig.service.taken)
        await asyncio.sleep(0.1)
        rig.service.answers_pings = False  # nothing may come in between
        rig.connection.data_received(b"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x88")  # HEADERS without END_HEADERS
        assert await rig.lost(rules.HEADER_BLOCK_DEADLINE + 1) == "a header block without end"

    async def test_a_frame_without_end_is_given_up(self) -> None:
        """However it drips: bytes are no sign of life, and its PING could not be answered within one."""
        rig = await opened(1, Service(lambda path: Fault("hang")))
        await until(lambda: rig.service.taken)
        await asyncio.sleep(0.1)
        rig.service.answers_pings = False
        rig.connection.data_received(b"\x00\x40\x00\x00\x00\x00\x00\x00\x01")  # DATA of 16 KiB
        drip = asyncio.create_task(_drip(rig.connection))
        assert await rig.lost(rules.FRAME_DEADLINE + 1) == "a frame without end"
        await drip

    async def test_frames_that_are_always_cut_are_no_frame_without_end(self) -> None:
        """A busy connection's reads end anywhere."""
        rig = await opened(0, Service())
        ping, ends = b"\x00\x00\x08\x06\x01\x00\x00\x00\x00" + bytes(8), virtual_loop().time() + 20.0
        await asyncio.sleep(0.1)
        rig.connection.data_received(ping[:5])
        while virtual_loop().time() < ends:
            await asyncio.sleep(0.05)
            rig.connection.data_received(ping[5:] + ping[:5])
        assert rig.connection.usable

    async def test_a_peer_that_does_anything_but_answer_is_pinged(self) -> None:
        """Window updates are no answers, and whoever cannot answer a PING is gone."""
        service = Service(lambda path: Fault("hang"))
        service.answers_pings = False
        rig = await opened(3, service)
        await asyncio.sleep(0.1)
        start, update = virtual_loop().time(), b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x01"
        while rig.connection.usable:
            rig.connection.data_received(update)
            await asyncio.sleep(0.2)
        assert await rig.lost() == "PING not answered"
        assert virtual_loop().time() - start < rules.SILENCE_BEFORE_PING + rules.PING_ANSWER_DEADLINE + 1

    @pytest.mark.parametrize("drip", [0, 1])
    async def test_a_window_that_stays_shut_is_given_up(self, drip: int) -> None:
        """Also if a byte goes through now and then: the request's body has ten seconds."""
        rig = await opened(0, Service(lambda path: Fault("hang")))
        await asyncio.sleep(0.1)
        rig.connection.data_received(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04" + bytes(4))
        rig.source.waiting, rig.source.body = [0, 1], b"x" * 200
        rig.connection.pump()
        start = virtual_loop().time()
        while rig.connection.usable:
            if drip:
                rig.connection.data_received(b"\x00\x00\x04\x08\x00\x00\x00\x00\x01\x00\x00\x00\x01")
            await asyncio.sleep(0.5)
        assert await rig.lost() == "the peer's window stays shut"
        assert virtual_loop().time() - start < rules.WRITE_DEADLINE + 1
        assert rig.source.waiting == [1]

    async def test_a_peer_that_allows_no_streams_is_replaced(self) -> None:
        """RFC 9113 section 5.1.2 calls such a value temporary."""
        service = Service()
        service.streams = 0
        rig = await opened(0, service)
        await asyncio.sleep(0.1)
        rig.source.waiting = [0]
        start = virtual_loop().time()
        await rig.lost(rules.NO_STREAMS_DEADLINE + 1)
        assert virtual_loop().time() - start > rules.NO_STREAMS_DEADLINE
        assert rig.connection.retired == "the peer allows no streams"
        assert rig.source.waiting == [0]

    @pytest.mark.parametrize("fault", ["reset", "refuse"])
    async def test_a_peer_that_resets_everything_is_replaced(self, fault: str) -> None:
        rig = await opened(1500, Service(lambda path: Answer() if path == "/0" else Fault(fault)))
        await rig.lost(5.0)
        assert rig.connection.retired == "more requests break off than are answered"
        assert len(rig.source.unknown) + rig.source.unsent.total() < rules.BROKEN_TO_RETIRE + 100

    async def test_a_share_of_resets_is_the_requests_own_trouble(self) -> None:
        rig = await opened(1500, Service(lambda path: Fault("reset") if path.endswith(("1", "2", "3")) else Answer()))
        await until(lambda: rig.source.done == 1500)
        assert rig.connection.usable

    async def test_a_peer_that_asks_and_does_not_read_is_given_up(self) -> None:
        """What it has us write is bounded (RFC 9113 section 10.5)."""
        rig = await opened(0)
        await asyncio.sleep(0.1)
        rig.connection.pause_writing()
        rig.connection.data_received((b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)) * 4000)
        assert await rig.lost(0.5) == "the peer asks and does not read"

    async def test_pings_of_days_are_no_flood(self) -> None:
        rig = await opened(0)
        ping, ends = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8), virtual_loop().time() + 2000.0
        await asyncio.sleep(0.1)
        while virtual_loop().time() < ends:
            rig.connection.data_received(ping * 9)
            await asyncio.sleep(1.0)
        assert rig.connection.usable

    async def test_whoever_breaks_the_protocol_is_told_and_left(self) -> None:
        rig = await opened(3, Service(lambda path: Fault("hang")))
        await until(lambda: rig.service.taken)
        rig.connection.data_received(b"\x00\x00\x00\x00\x00\x00\x00\x00\x09")  # DATA for a stream never opened
        assert (await rig.lost(1.0)).startswith("PROTOCOL_ERROR")
        assert rig.source.unknown == {0: "protocol error"}

    async def test_a_lost_connection_leaves_its_requests_unknown(self) -> None:
        rig = await opened(50, Service(lambda path: Answer() if path == "/0" else Fault("hang")))
        await until(lambda: rig.service.taken == 50)
        rig.service.sessions[0].transport.cut()
        assert await rig.lost(1.0) == "connection lost: ConnectionResetError"
        assert len(rig.source.unknown) == 49
        assert rig.source.accepted == [0]

    async def test_an_answer_whose_status_came_counts_though_its_body_was_cut_off(self) -> None:
        rig = await opened(1, Service(lambda path: Fault("hang")))
        await until(lambda: rig.service.taken)
        session = rig.service.sessions[0]
        session.h2.send_headers(1, [(":status", "410")])
        session.h2.send_data(1, b'{"rea')
        session.flush()
        await asyncio.sleep(0.1)
        session.transport.cut()
        await rig.lost(1.0)
        assert (rig.source.answered[0].status, rig.source.answered[0].body) == (410, b'{"rea')

    async def test_the_end_of_the_stream_is_the_end(self) -> None:
        rig = await opened(1, Service(lambda path: Fault("hang")))
        await until(lambda: rig.service.taken)
        rig.connection.eof_received()
        rig.service.sessions[0].transport.close()
        assert await rig.lost(1.0) == "closed by the peer"
        assert set(rig.source.unknown) == {0}

    @pytest.mark.parametrize(("chosen", "named"), [("http/1.1", "http/1.1"), (None, "nothing")])
    async def test_without_http2_nothing_is_said(self, chosen: str | None, named: str) -> None:
        service = Service()
        service.alpn = chosen
        rig = await opened(3, service)
        assert await rig.lost(1.0) == f"the server does not speak HTTP/2 (it chose {named} by ALPN)"
        assert service.sessions[0].transport.written == 0
        assert rig.source.waiting == [0, 1, 2]


async def _drip(connection: Connection) -> None:
    while connection.usable:
        connection.data_received(b"x")
        await asyncio.sleep(0.5)


class TestLeaving:
    async def test_goaway_brings_back_what_was_not_processed_and_waits_for_the_rest(self) -> None:
        service = Service(lambda path: Answer(delay=1.0))
        service.behave = lambda path: Answer() if path == "/0" else Answer(delay=1.0)
        rig = await opened(50, service)
        await until(lambda: service.taken == 50)
        service.sessions[0].goaway(2 * 30 + 1)
        await asyncio.sleep(0.1)
        assert sorted(rig.source.unsent) == list(range(31, 50))
        assert rig.connection.protocol.phase is Phase.DRAINING
        assert await rig.lost(2.0) == "GOAWAY NO_ERROR"
        assert sorted(rig.source.accepted) == list(range(31))
        assert sorted(rig.source.waiting) == list(range(31, 50)), "a draining connection takes nothing"

    async def test_draining_says_so_once_and_closes_after_the_last_answer(self) -> None:
        rig = await opened(5, Service(lambda path: Answer(delay=1.0)))
        await until(lambda: rig.firsts)
        await until(lambda: rig.service.taken == 5)
        rig.connection.drain()
        rig.connection.drain()
        assert rig.changes == [Phase.DRAINING]
        await rig.lost(2.0)
        assert len(rig.source.accepted) == 5

    async def test_a_drain_does_not_wait_for_ever(self) -> None:
        rig = await opened(2, Service(lambda path: Answer() if path == "/0" else Fault("hang")))
        await until(lambda: rig.service.taken == 2)
        rig.connection._request_timeout = 3600.0  # so that the drain's own deadline is what ends it
        rig.connection.drain()
        assert await rig.lost(rules.DRAIN_DEADLINE + 1) == "draining took too long"

    async def test_with_nothing_open_a_drain_is_a_close(self) -> None:
        rig = await opened(0)
        await asyncio.sleep(1.0)
        rig.connection.drain()
        await rig.lost(0.1)

    async def test_closing_leaves_what_is_open_unknown(self) -> None:
        rig = await opened(3, Service(lambda path: Fault("hang")))
        await until(lambda: rig.service.taken)
        rig.connection.close()
        await rig.lost(0.1)
        assert set(rig.source.unknown) == {0}

    @pytest.mark.parametrize("how", ["close", "drain", "pump"])
    async def test_after_its_end_nothing_happens_any_more(self, how: str) -> None:
        rig = await opened(3)
        rig.connection.abort("because")
        assert await rig.lost(0.1) == "because"
        getattr(rig.connection, how)()
        rig.connection.abort("again")
        rig.connection.sweep(virtual_loop().time() + 3600)
        assert rig.connection.lost == "because"
        assert len(rig.changes) <= 2


async def test_a_connection_that_was_asked_nothing_was_not_useless() -> None:
    rig = await opened(0)
    await asyncio.sleep(1.0)
    rig.service.sessions[0].transport.cut()
    await rig.lost()
    assert not rig.connection.useless
