"""A provider, its plans and a credential that do what a test says, and flights of theirs."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from gateway.credentials.store import Signing
from gateway.dispatch.breaker import Breaker
from gateway.dispatch.budget import Budget
from gateway.dispatch.flight import Flight
from gateway.dispatch.governor import Governor
from gateway.dispatch.quarantine import Quarantine
from gateway.dispatch.retry import Limits
from gateway.dispatch.sender import Sender
from gateway.dispatch.turns import Turn
from gateway.http2.connection import Requests
from gateway.http2.pool import Counts
from gateway.http2.results import Answer, Results
from gateway.model import Job, Lane, Note, Route, State, milliseconds_column, new_batch_id, new_job_id
from gateway.queue.base import Lease, Progress
from providers.base import (
    Alike,
    ClientCertificate,
    Exchange,
    Head,
    Headers,
    Material,
    Message,
    Outcome,
    Problem,
    ProviderSettings,
    Recipient,
    Rendered,
    Rows,
    Scope,
    Targets,
    Terms,
    Verdict,
)
from tests.gateway.virtual import EPOCH

ROUTE = Route("shop", "scripted")
ORIGIN = "https://push.example"
HEAD = ((b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"push.example"))


class ScriptedPlan:
    """Renders `{target}:{variable}`; an answer's body says which of `outcomes` it means."""

    def __init__(self, *, slice: int = 250, bare_accept: bool = True) -> None:
        self.slice = slice
        self.bare_accept = bare_accept
        self.reject: Callable[[bytes], str | None] = lambda target: None
        self.crash: Exception | None = None
        self.outcomes: dict[bytes, Outcome] = {b"": Outcome(verdict=Verdict.ACCEPTED)}
        self.padding = b""

    def head(self, auth: Headers, now: float) -> Head:
        return Head(HEAD + auth, (), (b":path", b"id"))

    def render(self, rows: Rows, now: float) -> Rendered:
        if self.crash is not None:
            raise self.crash
        reasons = {position: self.reject(target) for position, target in enumerate(rows.targets[0])}
        bodies = [
            target + b":" + name + self.padding for target, name in zip(rows.targets[0], rows.variables[0], strict=True)
        ]
        paths = [b"/" + target for target in rows.targets[0]]
        rejected = {position: reason for position, reason in reasons.items() if reason is not None}
        return Rendered((paths, rows.ids), bodies, rejected)

    def outcome(self, status: int, headers: Headers, body: bytes, now: float) -> Outcome:
        return self.outcomes[body]

    def provider_ids(self, alike: Alike) -> list[str] | None:
        """None unless `outcomes` accepts all of them."""
        found = [self.outcomes[body] for body in alike.bodies]
        accepted = all(outcome.verdict is Verdict.ACCEPTED for outcome in found)
        return [outcome.provider_id for outcome in found] if accepted else None


class ScriptedCredential:
    fingerprint = "scripted"
    key_id = "scripted"
    expires_at: float | None = None
    client_certificate: ClientCertificate | None = None

    def __init__(self) -> None:
        self.signed: Headers | None = ((b"authorization", b"0"),)
        self.renewed = 0
        self.wanted: Exchange | None = None
        self.grants: list[Outcome] = []

    def headers(self, origin: str, now: float) -> Headers | None:
        return self.signed

    def exchange(self, now: float) -> Exchange | None:
        return self.wanted

    def exchanged(self, status: int, headers: Headers, body: bytes, now: float) -> Outcome:
        outcome = self.grants.pop(0)
        if outcome.verdict is Verdict.ACCEPTED:
            self.wanted = None
        return outcome

    def renew(self, now: float) -> None:
        self.renewed += 1
        self.signed = ((b"authorization", b"%d" % self.renewed),)


class ScriptedProvider:
    """One target column; all that a message needs is in the plan."""

    name = "scripted"
    settings: type[ProviderSettings] = ProviderSettings
    target_columns = 1
    default_rate: float | None = None
    default_connections = 2
    single_origin = False

    def __init__(self) -> None:
        self.plan = ScriptedPlan()
        self.compiled = 0
        self.poison: set[str] = set()
        """Titles of messages that cannot be compiled."""
        self.credentials: list[ScriptedCredential] = []
        self.farewells = {b"certificate": Outcome(Verdict.CREDENTIAL, "BadCertificate", scope=Scope.CREDENTIAL)}

    def targets(self, recipients: Sequence[Recipient], settings: ProviderSettings) -> Targets:
        raise NotImplementedError

    def registered_keys(self, origin: str, targets: tuple[list[bytes], ...]) -> list[bytes]:
        return [b"key of " + target for target in targets[0]]

    def check(self, message: Message, terms: Terms, settings: ProviderSettings) -> list[Problem]:
        return []

    def endpoint(self, settings: ProviderSettings) -> str:
        return ORIGIN

    def compile(self, message: Message, terms: Terms, settings: ProviderSettings, origin: str) -> ScriptedPlan:
        self.compiled += 1
        if message.title in self.poison:
            raise KeyError("the words of a message that must not be logged")
        return self.plan

    def farewell(self, debug: bytes) -> Outcome | None:
        return self.farewells.get(debug)

    def credential(self, settings: ProviderSettings, material: Material | None = None) -> ScriptedCredential:
        self.credentials.append(ScriptedCredential())
        return self.credentials[-1]


class ScriptedPool:
    """Counts what the sender asks of its pool."""

    failure = None

    def __init__(self) -> None:
        self.replaced = 0
        self.ticks = 0
        self.wakes = 0

    def wake(self) -> None:
        self.wakes += 1

    def replace(self) -> None:
        self.replaced += 1

    def tick(self, now: float) -> None:
        self.ticks += 1

    def counts(self) -> Counts:
        return Counts(0, 1, 0, 0)


class Silent:
    """Counts nothing."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *_: object, **__: object) -> Any:
        return self


def job(*, lane: Lane = Lane.PROMOTIONAL, resend: bool = False, expires_in: float | None = None) -> Job:
    return Job(
        id=new_job_id(),
        app="shop",
        lane=lane,
        message=Message(title="Hello {{name}}"),
        variables=("name",),
        created_at=EPOCH,
        expires_at=None if expires_in is None else EPOCH + expires_in,
        resend_unknown=resend,
    )


def lease(
    count: int = 4,
    of: Job | None = None,
    *,
    states: bytes | None = None,
    notes: dict[int, Note] | None = None,
    registered: dict[int, float] | None = None,
    until: float = math.inf,
) -> Lease:
    """A batch of targets t0, t1, … with variables n0, n1, …; the states are a view, as the queue's are."""
    dates = {index: b"%f" % at for index, at in (registered or {}).items()}
    return Lease(
        sequence=1,
        batch_id=new_batch_id(EPOCH),
        attempt=1,
        until=until,
        job=of or job(),
        route=ROUTE,
        count=count,
        columns=(
            b"\n".join(b"t%d" % index for index in range(count)),
            b"\n".join(b"n%d" % index for index in range(count)),
            b"\n".join(dates.get(index, b"") for index in range(count)),
        ),
        progress=Progress(memoryview(bytearray(states or bytes(count))), milliseconds_column(count), notes or {}),
    )


def flight(plan: ScriptedPlan | None = None, of: Lease | None = None, **more: Any) -> Flight:
    leased = of or lease(**more)
    columns = [column.split(b"\n") for column in leased.columns]
    return Flight(leased, plan or ScriptedPlan(), columns, 1, 0.0)


class Bench:
    """A sender between a test that is its pool and a test that is its dispatcher."""

    def __init__(
        self,
        *,
        rate: float | None = None,
        limits: Limits = Limits(),
        max_dead_share: float = 0.5,
        turn: Turn | None = None,
        retry_share: float = 0.2,
        retry_floor: float = 10.0,
    ) -> None:
        now, jitter = asyncio.get_running_loop().time(), random.Random(1)
        self.provider = ScriptedProvider()
        self.plan = self.provider.plan
        self.credential = ScriptedCredential()
        self.pool = ScriptedPool()
        self.finished: list[Flight] = []
        self.failed: list[tuple[Flight, Exception]] = []
        self.held: list[Scope] = []
        self.sender = Sender(
            ROUTE,
            self.provider,
            ORIGIN,
            Signing("shop/scripted", self.credential),
            governor=Governor(rate, now, jitter),
            breaker=Breaker(max_dead_share),
            budget=Budget(retry_share, retry_floor, now),
            limits=limits,
            metrics=Silent(),  # type: ignore[arg-type]
            finished=self._finished,
            failed=self._failed,
            held=lambda sender, scope: self.held.append(scope),
            turn=turn or Turn(lambda: 1e9),
            jitter=jitter,
            clock=asyncio.get_running_loop().time,
        )
        self.sender.pool = self.pool  # type: ignore[assignment]
        self.sender.quarantine = Quarantine(self.sender, lambda source: self.pool)  # type: ignore[arg-type,return-value]

    def _finished(self, flight: Flight) -> None:
        if flight in self.sender.flights:
            self.sender.remove(flight)
            self.finished.append(flight)

    def _failed(self, flight: Flight, error: Exception) -> None:
        self.sender.remove(flight)
        self.failed.append((flight, error))

    def add(self, count: int = 4, **more: Any) -> Flight:
        added = flight(self.plan, count=count, **more)
        self.sender.add(added)
        return added

    def take(self, streams: int = 100, window: int = 1_000_000) -> Requests | None:
        return self.sender.take(streams, window)

    def taken(self, streams: int = 100, window: int = 1_000_000) -> Requests:
        requests = self.take(streams, window)
        assert requests is not None, "nothing was to be sent"
        return requests

    def accept(self, requests: Requests) -> None:
        results = Results()
        results.accepted = list(requests.tags)
        self.sender.settle(results)

    def answer(self, requests: Requests, outcome: Outcome) -> None:
        """All of them get an answer of this meaning."""
        self.plan.outcomes[b"this"] = outcome
        results = Results()
        results.answers = [Answer(tag, 400, (), b"this") for tag in requests.tags]
        self.sender.settle(results)

    def lose(self, requests: Requests, reason: str = "connection lost") -> None:
        results = Results()
        results.unknown = [(tag, reason) for tag in requests.tags]
        self.sender.settle(results)

    def refuse(self, requests: Requests) -> None:
        results = Results()
        results.unsent = list(requests.tags)
        self.sender.settle(results)

    @property
    def on_wire(self) -> int:
        return self.sender.load().on_wire


def targets(requests: Requests) -> list[bytes]:
    return [path.removeprefix(b"/") for path in requests.fields[0]]


def words(of: Flight) -> list[str]:
    return [State(state).word for state in bytes(of.states)]
