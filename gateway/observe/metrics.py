"""Where a gateway's parts count.

`families` is the published table. Every combination of labels exists from the start with zero, so that an alert sees
the first event. All workers' numbers are added up in each answer of `/metrics`, see `exposition`.

Every method takes a number of events: call it once per batch, slice or read, never once per notification.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from gateway.model import TERMINAL_STATES, Lane
from gateway.observe import exposition, families
from gateway.observe.cells import SUPERVISOR
from gateway.observe.families import Cause, ConnectionState, Handshake
from gateway.observe.instruments import Counter, Histogram, Store
from gateway.queue.base import Depth, Sees
from providers.base import Verdict

UNCONFIGURED = "unconfigured"
"""App and provider of what the configuration does not know, such as a job stored before its app was removed."""

_REASONS = 32
"""Distinct reasons of an outcome on a lane; the specifications name fewer than 20 for any."""
_REASON = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class LaneMetrics:
    """Events of one (app, provider, class)."""

    def __init__(self, store: Store, app: str, provider: str, lane: Lane) -> None:
        labels = (app, provider, lane.name.lower())
        self._store = store
        self._labels = labels
        self._recipients = {r: store.counter(families.RECIPIENTS, *labels, r) for r in ("accepted", "refused")}
        self._outcomes = {(verdict, ""): self._outcome_counter(verdict, "") for verdict in Verdict}
        self._states = [(s, store.counter(families.RECEIPTS, *labels, s.word)) for s in TERMINAL_STATES]
        self._retries = store.counter(families.RETRIES, *labels)
        self.answers = store.histogram(families.LATENCY, *labels)
        """Latency: `observe_many(milliseconds)` of a completed batch."""

    def _outcome_counter(self, verdict: Verdict, reason: str) -> Counter:
        return self._store.counter(families.OUTCOMES, *self._labels, verdict.name.lower(), reason)

    def recipients(self, accepted: int, refused: int) -> None:
        """A job was sealed."""
        self._recipients["accepted"].inc(accepted)
        self._recipients["refused"].inc(refused)

    def outcome(self, verdict: Verdict, reason: str = "", count: int = 1) -> None:
        """`count` answers meant the same."""
        counter = self._outcomes.get((verdict, reason))
        (counter or self._new_reason(verdict, reason)).inc(count)

    def _new_reason(self, verdict: Verdict, reason: str) -> Counter:
        """Bounded: whoever answers as a push service could otherwise fill our memory and Prometheus with words."""
        known = sum(1 for other, _ in self._outcomes if other is verdict)
        if known >= _REASONS or not _REASON.fullmatch(reason):
            reason = "other"
        key = (verdict, reason)
        if key not in self._outcomes:
            self._outcomes[key] = self._outcome_counter(verdict, reason)
        return self._outcomes[key]

    def retried(self, count: int) -> None:
        """`count` deliveries wait for another try."""
        self._retries.inc(count)

    def completed(self, states: bytes | bytearray) -> None:
        """A batch's receipts are stored: its column of states. 8 byte counts, 3 us a batch of 1,000."""
        for state, counter in self._states:
            if count := states.count(state):
                counter.inc(count)


class RouteMetrics:
    """Events and levels of one (app, provider), over all its origins."""

    def __init__(self, store: Store, app: str, provider: str) -> None:
        labels = (app, provider)
        self._in_flight = store.gauge(families.IN_FLIGHT, *labels)
        self._connections = {s: store.gauge(families.CONNECTIONS, *labels, s) for s in ConnectionState}
        self._handshakes = {r: store.counter(families.HANDSHAKES, *labels, r) for r in Handshake}
        self._retry_budget = store.gauge(families.RETRY_BUDGET, *labels)
        self._retries_held_back = store.gauge(families.RETRIES_HELD_BACK, *labels)
        self._rate_limit = store.gauge(families.RATE_LIMIT, *labels)
        self._stopped = {c: store.gauge(families.ROUTES_STOPPED, *labels, c) for c in Cause}
        self._invalid = store.counter(families.INVALID_TOKENS, *labels)
        self._failures = store.counter(families.FAILURES, *labels)
        self._dead_lettered = store.counter(families.DEAD_LETTERED, *labels)
        self._credential_expires = store.gauge(families.CREDENTIAL_EXPIRES, *labels)
        self._credential_broken = store.gauge(families.CREDENTIAL_BROKEN, *labels)

    def credential(self, *, expires_in: float | None, broken: bool) -> None:
        """How the active credential is; `expires_in` seconds, if it ends."""
        self._credential_expires.set(expires_in or 0.0)
        self._credential_broken.set(broken)

    def in_flight(self, now: int) -> None:
        """This many are on the wire now."""
        self._in_flight.set(now)

    def connections(self, state: ConnectionState, now: int) -> None:
        """This many connections are in that state now."""
        self._connections[state].set(now)

    def handshake(self, result: Handshake) -> None:
        """An attempt to connect ended."""
        self._handshakes[result].inc()

    def stopped(self, cause: Cause, now: int) -> None:
        """This many routes take no work now."""
        self._stopped[cause].set(now)

    def retry_budget(self, left: int, held_back: int) -> None:
        """So many retries may go at once, and so many that are due may not."""
        self._retry_budget.set(left)
        self._retries_held_back.set(held_back)

    def rate_limit(self, now: float) -> None:
        """The governors let so many notifications a second through; 0 for any number."""
        self._rate_limit.set(now)

    def invalid_tokens(self, count: int) -> None:
        """`count` targets were newly remembered as dead."""
        self._invalid.inc(count)

    def failed(self) -> None:
        """A batch could not be prepared or rendered."""
        self._failures.inc()

    def dead_lettered(self) -> None:
        """A batch was given up for that."""
        self._dead_lettered.inc()


class WebhookMetrics:
    """One endpoint's."""

    def __init__(self, store: Store, app: str, name: str) -> None:
        results = ("taken", "refused", "unreached")
        self._attempts = {result: store.counter(families.WEBHOOK_ATTEMPTS, app, name, result) for result in results}
        self._exhausted = store.counter(families.WEBHOOK_EXHAUSTED, app, name)
        self._messages = [
            store.gauge(families.WEBHOOK_MESSAGES, app, name, state) for state in ("pending", "exhausted")
        ]

    def attempted(self, result: str) -> None:
        """One request: taken, refused or unreached."""
        self._attempts[result].inc()

    def exhausted(self) -> None:
        """A message is tried no more."""
        self._exhausted.inc()

    def backlog(self, pending: int, exhausted: int) -> None:
        """So many wait, and so many are tried no more."""
        for gauge, now in zip(self._messages, (pending, exhausted), strict=True):
            gauge.set(now)


class Metrics:
    """Where one process counts, and where anyone asks for the sum of all processes.

    Args:
        directory: of all processes' files, the same for all.
        slot: this process's name, such as `worker-0`; a restarted worker goes on in its predecessor's.
        routes: the configured (app, provider)s.

    Raises:
        SlotTaken: another gateway uses the folder.
    """

    def __init__(self, directory: Path, slot: str, routes: Iterable[tuple[str, str]] = ()) -> None:
        self._directory = directory
        self._slot = slot
        self._store = store = Store(directory, slot)
        self._http: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._lanes: dict[tuple[str, str, Lane], LaneMetrics] = {}
        self._routes: dict[tuple[str, str], RouteMetrics] = {}
        if slot != SUPERVISOR:
            for app, provider in (*routes, (UNCONFIGURED, UNCONFIGURED)):
                self._routes[app, provider] = RouteMetrics(store, app, provider)
                for lane in Lane:
                    self._lanes[app, provider, lane] = LaneMetrics(store, app, provider, lane)
        self._depth = {
            f: store.gauge(f) for f in (families.QUEUE_BATCHES, families.QUEUE_DELIVERIES, families.QUEUE_AGE)
        }
        self._limit = store.gauge(families.QUEUE_LIMIT)
        self._lags = {topic: store.gauge(families.KAFKA_LAG, topic) for topic in families.KAFKA_TOPICS}
        self._rebalances = store.counter(families.KAFKA_REBALANCES)
        self._partitions = store.gauge(families.KAFKA_PARTITIONS)
        self._dead_letters = store.counter(families.KAFKA_DEAD_LETTERS)
        self._parked = store.gauge(families.PARKED)
        self._crashes = store.counter(families.CRASHES)
        self._restarts = store.counter(families.RESTARTS)
        self._lag = store.histogram(families.LOOP_LAG)
        self._skew = store.gauge(families.CLOCK_SKEW)
        self._shared_state = store.gauge(families.SHARED_STATE)
        self._tasks = store.gauge(families.TASKS)
        self._ready = store.gauge(families.READY)

    def lane(self, app: str, provider: str, lane: Lane) -> LaneMetrics:
        """Bind once per batch or longer. What is not configured counts as such."""
        known = self._lanes.get((app, provider, lane))
        return known or self._lanes[UNCONFIGURED, UNCONFIGURED, lane]

    def route(self, app: str, provider: str) -> RouteMetrics:
        """Bind once. What is not configured counts as such."""
        return self._routes.get((app, provider)) or self._routes[UNCONFIGURED, UNCONFIGURED]

    def http_request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered. `route` is the pattern (`/v1/jobs/{id}`), never the path."""
        if (bound := self._http.get((route, status))) is None:
            counter = self._store.counter(families.HTTP, route, str(status))
            bound = self._http[route, status] = (counter, self._store.histogram(families.HTTP_SECONDS, route))
        bound[0].inc()
        bound[1].observe(seconds)

    def queue_depth(self, depth: Depth, now: float) -> None:
        """What the queue says, right before `render`."""
        self._depth[families.QUEUE_BATCHES].set(depth.batches)
        self._depth[families.QUEUE_DELIVERIES].set(depth.deliveries)
        self._depth[families.QUEUE_AGE].set(max(0.0, now - depth.oldest_due) if depth.oldest_due is not None else 0.0)

    def queue_limit(self, deliveries: int) -> None:
        """Beyond so many deliveries new jobs are refused."""
        self._limit.set(deliveries)

    def rebalanced(self, partitions: int) -> None:
        """The group changed, and so many partitions are ours."""
        self._rebalances.inc(1)
        self._partitions.set(partitions)

    def lag(self, records: Mapping[str, int]) -> None:
        """Records that are not read yet, by what kind of topic it is (`families.KAFKA_TOPICS`)."""
        for topic, gauge in self._lags.items():
            gauge.set(records.get(topic, 0))

    def dead_letter(self) -> None:
        """A record was put aside."""
        self._dead_letters.inc(1)

    def parked(self, batches: int) -> None:
        """So many batches are parked, right before `render`."""
        self._parked.set(batches)

    def crashed(self, batches: int) -> None:
        """So many batches are blamed for the death of a process."""
        self._crashes.inc(batches)

    def clock_skew(self, seconds: float) -> None:
        """This far is our clock from the services'."""
        self._skew.set(seconds)

    def webhook(self, app: str, name: str) -> WebhookMetrics:
        """Where requests to one endpoint are counted."""
        return WebhookMetrics(self._store, app, name)

    def shared_state(self, *, up: bool) -> None:
        """Whether what machines share can be reached."""
        self._shared_state.set(up)

    def loop_lag(self, seconds: float) -> None:
        """A timer was late by this much."""
        self._lag.observe(seconds)

    def tasks(self, now: int) -> None:
        """So many tasks exist."""
        self._tasks.set(now)

    def ready(self, ready: bool) -> None:
        """Whether this process should get work."""
        self._ready.set(ready)

    def worker_restarted(self) -> None:
        """A worker died and another takes its place."""
        self._restarts.inc()

    def collect(self, sees: Sees | None = None) -> list[Metric]:
        """The sum over all processes, for any of `prometheus_client`'s formats. Reads files: call it in a thread.

        With `sees`, only the series of apps that are seen: nothing of others, nor of what all of them share.
        """
        return exposition.merged(self._directory, self._slot, sees)

    def registry(self, sees: Sees | None = None) -> CollectorRegistry:
        """What `prometheus_client.exposition` takes; it collects whenever it is asked."""
        return exposition.registry(self._directory, self._slot, sees)

    def close(self) -> None:
        """Stop counting; the counts stay."""
        self._store.cells.close()
