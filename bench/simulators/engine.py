"""The strict simulator: every request is validated, then the script has its say, then it is answered."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from . import frames
from .frame_wire import FrameWire
from .h2_wire import H2Wire
from .http1_wire import Http1Wire
from .journal import StrictJournal
from .message import Answer, Request
from .script import ACCEPT, Player, Rule, Script
from .service import NO_REACTION, Service
from .wire import Wire


class Engine:
    """What the connections of a service share."""

    def __init__(self, service: Service, script: Script, *, wire: type[H2Wire] | type[FrameWire], rtt: float) -> None:
        self.service = service
        self.limits = service.limits
        self.rtt = rtt
        self.journal = StrictJournal()
        self.player = Player(named=service.named_targets)
        self.load(script)
        self.wires: set[Wire] = set()
        self.stats: Counter[str] = Counter()
        self._wire = wire
        self._numbers = 0
        self._timers: set[asyncio.TimerHandle] = set()
        self._faults: dict[str, Callable[[Wire, int, Rule, Answer], bool]] = {
            "hang": self._hang,
            "lost": self._lost,
            "reset_after": self._reset_after,
            "drain": self._drain,
            "settings": self._resettle,
            "slow": self._slow,
        }

    # connections

    def connect(self) -> asyncio.Protocol:
        return _Negotiation(self)

    def wire(self, protocol: str | None) -> Wire:
        self._numbers += 1
        kind = self._wire if protocol == "h2" or "http/1.1" not in self.service.protocols else Http1Wire
        return kind(self, self._numbers)

    def opened(self, wire: Wire) -> None:
        wire.visit = self.service.opened(wire.transport.get_extra_info("peercert") or {})
        self.wires.add(wire)
        self.stats["connections"] += 1

    def closed(self, wire: Wire) -> None:
        self.wires.discard(wire)

    # control

    def load(self, script: Script) -> None:
        """Plays another script from now on. Raises KeyError where the service has no such answer."""
        for rule in script.rules:
            self.service.check(rule)
        self.player.load(script)

    def reset(self) -> None:
        """Forgets what was seen, and how often each target was tried."""
        self.journal.reset()
        self.player.tries.clear()
        self.stats.clear()

    def goaway(self, code: int = 0, debug: bytes = b"") -> None:
        """To all connections; with NO_ERROR gracefully, in two steps."""
        for wire in list(self.wires):
            if code == frames.Code.NO_ERROR and not debug:
                self.drain(wire)
            else:
                wire.goaway(wire.last_stream, code, debug)

    def settings(self, values: dict[int, int]) -> None:
        for wire in self.wires:
            wire.settings(values)

    def cut(self) -> None:
        for wire in list(self.wires):
            wire.cut()

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self.cut()

    def overrun(self, wire: Wire, stream: int) -> None:
        """A peer opened more streams than it was allowed."""
        self.stats["overruns"] += 1
        if self.limits.overrun == "goaway":
            wire.goaway(wire.last_stream, self.limits.overrun_code, self.limits.overrun_text)
            return
        wire.reset(stream, frames.Code.REFUSED_STREAM)
        # Apple sends one for HEADERS and another for DATA, whose stream is closed by then.
        wire.reset(stream, frames.Code.STREAM_CLOSED)

    # requests

    def requested(self, wire: Wire, stream: int, request: Request) -> None:
        """A whole request came."""
        now = time.time()
        key, target, answer = self.service.judge(wire.visit, request, now)
        if answer is not None and answer.status < 300:
            self.stats["dry_runs"] += 1  # nothing was taken, so that no ledger knows of it
            self._answer(wire, stream, answer)
            return
        if answer is not None:
            self.stats["refusals"] += 1
            self.journal.record(key, wire.number, stream, answer.status, self.player.tries.get(target, 0))
            self._answer(wire, stream, answer)
            return
        rule = self.player.rule(target)
        if rule.fault in ("reset", "goaway", "cut"):
            self._unprocessed(wire, stream, rule, key, target)
            return
        answer = self.service.scripted(rule, request, now)
        status = 0 if rule.fault == "hang" else answer.status
        self.journal.record(key, wire.number, stream, status, self.player.tries[target])
        if rule is ACCEPT:
            self._answer(wire, stream, answer)
        elif not rule.fault and rule.delay:
            self._later(rule.delay, self._answer, wire, stream, answer)
        elif not rule.fault or self._faults[rule.fault](wire, stream, rule, answer):
            self._answer(wire, stream, answer)

    def _answer(self, wire: Wire, stream: int, answer: Answer) -> None:
        wire.respond(stream, answer)
        self._react(wire, answer)

    def _react(self, wire: Wire, answer: Answer) -> None:
        reaction = self.service.reacted(wire.visit, answer)
        if reaction is NO_REACTION:
            return
        if reaction.streams is not None:
            wire.settings({frames.Setting.MAX_CONCURRENT_STREAMS: reaction.streams})
        if reaction.goaway is not None:
            wire.goaway(wire.last_stream, frames.Code.NO_ERROR, reaction.goaway)

    def _later(self, delay: float, what: Callable[..., Any], *arguments: Any) -> None:
        def run() -> None:
            self._timers.discard(timer)
            what(*arguments)

        timer = asyncio.get_running_loop().call_later(delay, run)
        self._timers.add(timer)

    # faults before anything is processed

    def _unprocessed(self, wire: Wire, stream: int, rule: Rule, key: bytes, target: bytes) -> None:
        self.stats[rule.fault] += 1
        if rule.fault == "goaway":
            wire.goaway(stream - 2, rule.code)
        elif rule.fault == "reset" and rule.code == frames.Code.REFUSED_STREAM:
            wire.reset(stream, rule.code)
        else:
            self.journal.record(key, wire.number, stream, 0, self.player.tries[target])
            if rule.fault == "cut":
                wire.cut()
            else:
                self._later(rule.delay, wire.reset, stream, rule.code)

    # faults after: True where the answer is still to be sent

    def _hang(self, wire: Wire, stream: int, rule: Rule, answer: Answer) -> bool:
        return False

    def _lost(self, wire: Wire, stream: int, rule: Rule, answer: Answer) -> bool:
        self._later(rule.delay, wire.cut)
        return False

    def _reset_after(self, wire: Wire, stream: int, rule: Rule, answer: Answer) -> bool:
        self._answer(wire, stream, answer)
        wire.reset(stream, rule.code)
        return False

    def _drain(self, wire: Wire, stream: int, rule: Rule, answer: Answer) -> bool:
        self.drain(wire, rule.delay)
        return True

    def drain(self, wire: Wire, delay: float = 0.0) -> None:
        """Graceful shutdown in two steps (RFC 9113, section 6.8): a warning, then the last stream."""
        wire.goaway(frames.MAX_STREAM, frames.Code.NO_ERROR)
        self._later(delay or 0.05, lambda: wire.goaway(wire.last_stream, frames.Code.NO_ERROR))

    def _resettle(self, wire: Wire, stream: int, rule: Rule, answer: Answer) -> bool:
        wire.settings({frames.Setting.MAX_CONCURRENT_STREAMS: rule.code})
        return True

    def _slow(self, wire: Wire, stream: int, rule: Rule, answer: Answer) -> bool:
        if not wire.start(stream, answer) or not answer.body:
            return False

        def rest(place: int) -> None:
            end = place + 1 == len(answer.body)
            wire.data(stream, answer.body[place : place + 1], end)
            if not end:
                self._later(rule.delay, rest, place + 1)

        self._later(rule.delay, rest, 0)
        return False


class _Negotiation(asyncio.Protocol):
    """Hands a connection to the wire of the ALPN protocol that it agreed on; none means h2 by prior knowledge."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        session: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        wire = self._engine.wire(session.selected_alpn_protocol() if session else None)
        cast(asyncio.Transport, transport).set_protocol(wire)  # uvloop's is none by inheritance
        wire.connection_made(transport)
