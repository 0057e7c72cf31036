"""A sender's second way out: another credential, on connections of its own.

It is a canary's, which takes a share of what goes while the service proves it, or the former credential's after a
change, whose connections answer what is on them and stay to go back to. What the service says against the credential
itself is between the two of them: the delivery goes again with the sender's own, at once and uncounted.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Protocol

from gateway.credentials.store import Signing, Tally
from gateway.dispatch.flight import Flight
from gateway.http2.connection import Requests
from gateway.http2.pool import DialFailure, Pool
from gateway.http2.results import Answer, Results, Tag
from providers.base import Credential, Outcome, Provider, Scope, Verdict

UNPROVEN = 20
"""Answers without an accepted one after which a canary is taken for refused, whatever they say of the targets: a
credential of another project, or environment, would be answered like that."""

DIALS = 3
"""Connections in a row that do not come about, after which a canary is taken for refused."""


class Lender(Protocol):
    """Whose deliveries go: a route's sender."""

    provider: Provider

    @property
    def tally(self) -> Tally:
        """Of all that goes, the exit's included."""

    @property
    def backlog(self) -> bool: ...

    def lend(self, credential: Credential, streams: int, window: int) -> Requests | None:
        """As `Source.take`, signed with another credential."""

    def give_back(self, tags: list[Tag]) -> None: ...

    def settle(self, results: Results) -> None: ...

    def take_back(self, flight: Flight, index: int, outcome: Outcome) -> None:
        """A delivery that was answered goes again as if it had not been sent."""

    def dialled(self, failure: DialFailure | None) -> None: ...


class Exit:
    """Source and listener of the connections with the second credential."""

    def __init__(self, sender: Lender, signing: Signing) -> None:
        self.signing = signing
        self.pool: Pool
        self._sender = sender
        self._on_wire = 0
        self._closed = False
        self._renewed = False
        self._undialled = 0

    def change(self, signing: Signing, pool: Pool) -> Pool:
        """Have another credential with its connections instead; those that it had."""
        former, self.pool = self.pool, pool
        self.signing = signing
        self._on_wire = 0
        self._closed = True  # what was at work before is no canary
        return former

    async def close(self, deadline: float) -> None:
        """As `Pool.close`."""
        self._closed = True
        await self.pool.close(deadline)

    # The pool's side: Source and Listener

    @property
    def backlog(self) -> bool:
        return self._room() > 0 and self._sender.backlog

    def take(self, streams: int, window: int) -> Requests | None:
        room = min(streams, self._room())
        if room <= 0:
            return None
        requests = self._sender.lend(self.signing.credential, room, window)
        if requests is not None:
            self._on_wire += len(requests.tags)
        return requests

    def _room(self) -> int:
        """How many more are its share; one at a time until the first is accepted."""
        share, tally = self.signing.share, self.signing.tally
        if self._closed or not share:
            return 0
        if not tally.accepted:
            return 1 - self._on_wire
        if share >= 1.0:
            return sys.maxsize
        sent = tally.accepted + tally.failed + self._on_wire
        of = self._sender.tally
        return int(share * (of.accepted + of.failed)) + 1 - sent

    def give_back(self, tags: list[Tag]) -> None:
        self._on_wire -= len(tags)
        self._sender.give_back(tags)

    def settle(self, results: Results) -> None:
        ended = results.settled + len(results.unsent) + len(results.unknown)
        self._on_wire = max(0, self._on_wire - ended)
        tally = self.signing.tally
        tally.accepted += len(results.accepted)
        tally.failed += len(results.unknown)
        results.answers = [answer for answer in results.answered if self._passes(answer)]
        self._sender.settle(results)

    def _passes(self, answer: Answer) -> bool:
        """Whether an answer says anything of the delivery. If not, that goes again."""
        flight, index = answer.tag
        try:
            outcome = flight.plan.outcome(answer.status, answer.headers, answer.body, time.time())
        except Exception:
            return True  # the sender will see as well
        tally = self.signing.tally
        if outcome.verdict is Verdict.ACCEPTED:
            tally.accepted += 1
            return True
        if outcome.verdict is Verdict.CREDENTIAL and outcome.scope is not Scope.TARGET:
            self._sender.take_back(flight, index, outcome)
            self._refused(outcome)
            return False
        tally.failed += 1
        doubtful = outcome.verdict in (Verdict.REJECTED, Verdict.UNREGISTERED)
        if not doubtful or tally.accepted or not self.signing.share:
            return True
        self._sender.take_back(flight, index, outcome)
        if tally.failed >= UNPROVEN:
            self._refuse(f"nothing is accepted, the last was {outcome.reason}")
        return False

    def _refused(self, outcome: Outcome) -> None:
        if outcome.remint and not self._renewed:
            self._renewed = True
            self.signing.credential.renew(time.time())
            self.pool.replace()
            return
        self._refuse(outcome.reason)

    def _refuse(self, reason: str) -> None:
        if not self._closed:
            self._closed = True
            self.signing.refuse(reason)

    def dialled(self, failure: DialFailure | None) -> None:
        self._sender.dialled(failure)
        self._undialled = 0 if failure is None else self._undialled + 1
        if failure is not None and self._undialled >= DIALS and self.signing.share:
            self._refuse(f"no connection: {failure.detail}")

    def goaway(self, code: int, debug: bytes) -> None:
        """APNs says so what it thinks of a certificate."""
        outcome = self._sender.provider.farewell(debug)
        if outcome is not None and outcome.verdict is Verdict.CREDENTIAL:
            # Its pool has to be told first that this connection is gone.
            asyncio.get_running_loop().call_soon(self._refused, outcome)
