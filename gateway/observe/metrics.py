"""What is counted, what each count means, and what it does not mean.

`FAMILIES` is the published table. All workers' numbers are added up in each answer of `/metrics`, whichever worker
gives it; a dead worker's counts stay and its gauges go (see `gateway.observe.cells`). Labels are few and known at
start: `app` and `provider` as configured, `class` is promotional or transactional, and every combination exists from
the start with zero, so that an alert sees the first event. Nothing is labelled by token, origin, job or campaign.

Every method takes a number of events: call it once per batch, slice or read, never once per notification.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import accumulate
from pathlib import Path
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.model import TERMINAL_STATES, Lane
from gateway.observe import cells
from gateway.observe.cells import Cells, Key
from gateway.queue.base import Depth, Sees
from providers.base import Verdict


class Family(NamedTuple):
    """A metric, with all its labels' series."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str
    """What it says and what it does not."""
    touched: str
    """Who calls, and when."""
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, in seconds."""
    merge: Literal["sum", "max", "own"] = "sum"
    """How workers' gauges become one: `own` is what all see alike, so the answering worker's look counts."""

    @property
    def width(self) -> int:
        """Cells of a series: a histogram has one per bucket, one above them all, and the sum."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1


_ROUTE = ("app", "provider")
_LANE = ("app", "provider", "class")
_ANSWER_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 21600, 86400)
_HTTP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
_LAG_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

HTTP = Family(
    "carillon_http_requests", "counter", ("route", "status"),
    "HTTP requests answered. Status 202 on /v1/jobs means a job is on stable storage, not that it was sent.",
    "the HTTP middleware, per request",
)  # fmt: skip
HTTP_SECONDS = Family(
    "carillon_http_request_seconds", "histogram", ("route",),
    "From a request's head to the end of its answer, so a streamed upload counts for as long as the caller takes.",
    "the HTTP middleware, per request", _HTTP_BOUNDS,
)  # fmt: skip
RECIPIENTS = Family(
    "carillon_recipients", "counter", (*_LANE, "result"),
    "Recipients of jobs: accepted ones became deliveries; refused ones were answered with the reason and left "
    "nothing behind. Uploads that were broken off are not counted; repeats by Idempotency-Key are not either.",
    "ingest, per job",
)  # fmt: skip
OUTCOMES = Family(
    "carillon_outcomes", "counter", (*_LANE, "outcome", "reason"),
    "What the services' answers meant, one per try: a delivery tried three times counts three times. `reason` is the "
    "service's own word, `other` beyond the first few dozen. `accepted` never means delivered.",
    "dispatch, per read of answers",
)  # fmt: skip
RECEIPTS = Family(
    "carillon_receipts", "counter", (*_LANE, "state"),
    "Deliveries that ended, by their one terminal state; stored before counted. After a crash between the two, up to "
    "a batch a worker is missing here and never in the receipts.",
    "dispatch, per completed batch",
)  # fmt: skip
RETRIES = Family(
    "carillon_retries", "counter", _LANE,
    "Deliveries put back for another try, whatever for. Not the tries themselves: those are outcomes.",
    "dispatch, per batch or read",
)  # fmt: skip
LATENCY = Family(
    "carillon_answer_seconds", "histogram", _LANE,
    "From the acceptance of a job to a delivery's end, to the millisecond; its waiting, retries and the job's own "
    "`deliver_at` are in it, so compare it within a class. What was over before it began is not: zero milliseconds.",
    "dispatch, per completed batch", _ANSWER_BOUNDS,
)  # fmt: skip
IN_FLIGHT = Family(
    "carillon_in_flight", "gauge", _ROUTE,
    "Notifications on the wire and not answered. Not those in batches that workers hold.",
    "dispatch, sampled once a second",
)  # fmt: skip
CONNECTIONS = Family(
    "carillon_connections", "gauge", (*_ROUTE, "state"),
    "HTTP/2 connections to the service: connecting, open (takes requests), draining (only waits for answers).",
    "dispatch, sampled once a second",
)  # fmt: skip
HANDSHAKES = Family(
    "carillon_handshakes", "counter", (*_ROUTE, "result"),
    "Attempts to connect by how they ended: ok; refused (TCP or DNS); timeout; tls (certificate or TLS version); "
    "alpn (no `h2`); closed (the other side hung up before its SETTINGS).",
    "the connection pool, per attempt",
)  # fmt: skip
INVALID_TOKENS = Family(
    "carillon_invalid_tokens", "counter", _ROUTE,
    "Targets newly remembered as dead. Deliveries suppressed for it later count as `invalid_token` receipts only.",
    "dispatch, per batch",
)  # fmt: skip
ROUTES_STOPPED = Family(
    "carillon_routes_stopped", "gauge", (*_ROUTE, "cause"),
    "Routes that take no work. held: waiting because the service asked for it or is down, ends by itself. "
    "misconfigured: credential refused, or too many dead tokens at once; an operator has to act. Jobs are kept.",
    "dispatch, sampled once a second", merge="max",
)  # fmt: skip
RETRY_BUDGET = Family(
    "carillon_retry_budget", "gauge", _ROUTE,
    "Retries that may go at once, over all workers and origins. It grows with what is sent for the first time, and "
    "slowly with time. At zero, retries wait: see carillon_retries_held_back.",
    "dispatch, sampled once a second",
)  # fmt: skip
RETRIES_HELD_BACK = Family(
    "carillon_retries_held_back", "gauge", _ROUTE,
    "Deliveries in workers' hands that are due for another try, and wait because the retry budget is used up. Not "
    "those of batches that went back to the queue for it.",
    "dispatch, sampled once a second",
)  # fmt: skip
RATE_LIMIT = Family(
    "carillon_rate_limit", "gauge", _ROUTE,
    "Notifications a second that the governors let through now, over all workers and origins: less than configured "
    "after a service throttled or was down, and rising again. 0 while nothing limits.",
    "dispatch, sampled once a second",
)  # fmt: skip
QUEUE_BATCHES = Family(
    "carillon_queue_batches", "gauge", (),
    "Batches stored and not complete, including those that wait for their time or are held by a worker.",
    "the /metrics handler, from the queue", merge="own",
)  # fmt: skip
QUEUE_DELIVERIES = Family(
    "carillon_queue_deliveries", "gauge", (),
    "Deliveries of those batches, including the ones of a batch that already ended.",
    "the /metrics handler, from the queue", merge="own",
)  # fmt: skip
QUEUE_LIMIT = Family(
    "carillon_queue_high_water_deliveries", "gauge", (),
    "The setting `queue.high_water`: so many stored deliveries, and new jobs are refused with 503.",
    "the worker, at its start", merge="own",
)  # fmt: skip
QUEUE_AGE = Family(
    "carillon_queue_oldest_due_seconds", "gauge", (),
    "For how long the longest waiting batch has been due without any worker taking it; 0 if none waits.",
    "the /metrics handler, from the queue", merge="own",
)  # fmt: skip
SHARED_STATE = Family(
    "carillon_shared_state_reached", "gauge", (),
    "Workers that reach the `[redis]` of the settings. Fewer than carillon_workers: the others send at a fair share of "
    "the last known rates, and with Kafka they refuse requests with an Idempotency-Key. 0 where there is none.",
    "the worker, when it changes",
)  # fmt: skip
LOOP_LAG = Family(
    "carillon_loop_lag_seconds", "histogram", (),
    "How late the event loop woke a timer, twenty times a second and worker: what something held the loop for.",
    "the loop monitor", _LAG_BOUNDS,
)  # fmt: skip
CLOCK_SKEW = Family(
    "carillon_clock_skew_seconds", "gauge", (),
    "How far this machine's clock is from the push services', by the answer whose date agrees best; 0 while none came.",
    "dispatch, sampled once a second", merge="max",
)  # fmt: skip
PARKED = Family(
    "carillon_parked_batches", "gauge", (),
    "Batches that nobody takes any more because process after process died with them. An operator has to act: "
    "`carillon parked list`. They are among the stored ones.",
    "the /metrics handler, from the queue", merge="own",
)  # fmt: skip
CRASHES = Family(
    "carillon_batch_crashes", "counter", (),
    "Batches that were blamed for the death or the silence of the process that held them: the one it was preparing, or "
    "else all it had. Counted by whoever takes them over. Not the deaths themselves: those are worker restarts.",
    "the queue, per recovery",
)  # fmt: skip
FAILURES = Family(
    "carillon_batch_failures", "counter", _ROUTE,
    "Batches that could not be prepared or rendered, counted at each try: a defect of ours. The log says where.",
    "dispatch, per try of a batch",
)  # fmt: skip
DEAD_LETTERED = Family(
    "carillon_dead_lettered_batches", "counter", _ROUTE,
    "Batches given up because they could not be prepared. Their deliveries are `dead_lettered` receipts, as are those "
    "of a purge and those that were tried too often.",
    "dispatch, per batch",
)  # fmt: skip
CREDENTIAL_EXPIRES = Family(
    "carillon_credential_expires_seconds", "gauge", _ROUTE,
    "Seconds until the active credential ends, negative once it has; 0 where it does not say, as keys do not.",
    "the rotation, once a second", merge="max",
)  # fmt: skip
CREDENTIAL_BROKEN = Family(
    "carillon_credential_broken", "gauge", _ROUTE,
    "1 while the service refuses the active credential and there is none to go back to: jobs wait until they expire. "
    "An operator has to act: `carillon credentials list`.",
    "the rotation, once a second", merge="max",
)  # fmt: skip
TASKS = Family(
    "carillon_tasks", "gauge", (),
    "asyncio's tasks over all workers: a few dozen, one for each request that is being answered and each batch that is "
    "being stored. A number that only grows is a leak.",
    "the loop monitor, once a second",
)  # fmt: skip
RESTARTS = Family(
    "carillon_worker_restarts", "counter", (),
    "Workers that died and were started again.",
    "the supervisor, per death",
)  # fmt: skip
READY = Family(
    "carillon_ready_workers", "gauge", (),
    "Workers whose /readyz says 200. Less than carillon_workers for long: ask /readyz which part is missing.",
    "the loop monitor, once a second",
)  # fmt: skip
WORKERS = Family(
    "carillon_workers", "gauge", (),
    "Worker processes alive when asked. Not how many of them are ready: see carillon_ready_workers.",
    "computed in the answer",
)  # fmt: skip

WEBHOOK_ATTEMPTS = Family(
    "carillon_webhook_attempts", "counter", ("app", "webhook", "result"),
    "Requests to receivers of webhooks: taken (2xx), refused (any other answer), unreached (none).",
    "the worker that tells them, per request",
)  # fmt: skip
WEBHOOK_EXHAUSTED = Family(
    "carillon_webhook_exhausted", "counter", ("app", "webhook"),
    "Messages that are tried no more. Somebody has to look: `carillon webhooks list`, and replay.",
    "the worker that tells them",
)  # fmt: skip
WEBHOOK_MESSAGES = Family(
    "carillon_webhook_messages", "gauge", ("app", "webhook", "state"),
    "Messages that a receiver has not taken: pending (tried again), exhausted. What has not been cut into messages yet "
    "is not among them, as while too many are pending.",
    "the worker that tells them", merge="max",
)  # fmt: skip
KAFKA_LAG = Family(
    "carillon_kafka_lag_records", "gauge", ("topic",),
    "Records of this gateway's partitions that it has not read yet. Not the group's whole lag: add up all gateways'. "
    "0 with the embedded queue.",
    "the worker that speaks for the gateway, once a second",
)  # fmt: skip
KAFKA_REBALANCES = Family(
    "carillon_kafka_rebalances", "counter", (),
    "Changes of the group in which this gateway was assigned partitions: its own start and everybody's coming and "
    "going. Sending stands still for a moment with each.",
    "the worker that speaks for the gateway",
)  # fmt: skip
KAFKA_PARTITIONS = Family(
    "carillon_kafka_partitions", "gauge", (),
    "Partitions of the work that this gateway has, over all topics.",
    "the worker that speaks for the gateway, at each change of the group",
)  # fmt: skip
KAFKA_DEAD_LETTERS = Family(
    "carillon_kafka_dead_letters", "counter", (),
    "Records that were no job and went to the topic of dead letters. An operator has to look: `carillon dlq list`.",
    "the worker that speaks for the gateway",
)  # fmt: skip
KAFKA_TOPICS = ("jobs", "transactional", "promotional")
"""What the group consumes."""
FAMILIES = (
    HTTP, HTTP_SECONDS, RECIPIENTS, OUTCOMES, RECEIPTS, RETRIES, LATENCY, IN_FLIGHT, CONNECTIONS, HANDSHAKES,
    INVALID_TOKENS, ROUTES_STOPPED, RETRY_BUDGET, RETRIES_HELD_BACK, RATE_LIMIT, QUEUE_BATCHES, QUEUE_DELIVERIES,
    QUEUE_LIMIT, QUEUE_AGE, PARKED, CREDENTIAL_EXPIRES, CREDENTIAL_BROKEN, CRASHES, FAILURES, DEAD_LETTERED, CLOCK_SKEW,
    SHARED_STATE, LOOP_LAG, TASKS, RESTARTS, READY, WORKERS, KAFKA_LAG, KAFKA_REBALANCES, KAFKA_PARTITIONS,
    KAFKA_DEAD_LETTERS, WEBHOOK_ATTEMPTS, WEBHOOK_EXHAUSTED, WEBHOOK_MESSAGES,
)  # fmt: skip
"""Counters are exposed with `_total` after their name, as Prometheus wants it."""


_SCRATCH = Family("", "histogram", (), "Never shown.", "nobody", _ANSWER_BOUNDS)
"""As wide as the widest."""


class ConnectionState(StrEnum):
    """Label `state` of `carillon_connections`."""

    CONNECTING = "connecting"
    OPEN = "open"
    DRAINING = "draining"


class Handshake(StrEnum):
    """Label `result` of `carillon_handshakes`."""

    OK = "ok"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    TLS = "tls"
    ALPN = "alpn"
    CLOSED = "closed"
    FORBIDDEN = "forbidden"


class Cause(StrEnum):
    """Label `cause` of `carillon_routes_stopped`."""

    HELD = "held"
    MISCONFIGURED = "misconfigured"


SUPERVISOR = "supervisor"
"""The slot of the parent process."""

UNCONFIGURED = "unconfigured"
"""App and provider of what the configuration does not know, such as a job stored before its app was removed."""

_REASONS = 32
"""Distinct reasons of an outcome on a lane; the specifications name fewer than 20 for any."""
_REASON = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Store:
    """Series of this process by key, created when first asked for."""

    def __init__(self, directory: Path, slot: str) -> None:
        self.cells = Cells(directory, slot)
        widths = (width for _, width in self.cells.known)
        self._starts: dict[Key, int] = dict(
            zip((key for key, _ in self.cells.known), accumulate(widths, initial=0), strict=False)
        )
        self._scratch = self.start(_SCRATCH)

    def start(self, family: Family, *labels: str) -> int:
        key = (family.name, *labels)
        if (found := self._starts.get(key)) is not None:
            return found
        try:
            (found,) = self.cells.add([(key, family.width)])
        except OSError:
            return self._scratch  # on a full disk a new word goes uncounted, and nobody's work fails for it
        self._starts[key] = found
        return found

    def counter(self, family: Family, *labels: str) -> Counter:
        return Counter(self.cells, self.start(family, *labels))

    def gauge(self, family: Family, *labels: str) -> Gauge:
        gauge = Gauge(self.cells, self.start(family, *labels))
        gauge.set(0)  # what the slot's former holder had is no more
        return gauge

    def histogram(self, family: Family, *labels: str) -> Histogram:
        return Histogram(self.cells, self.start(family, *labels), family.bounds)


class Counter:
    """One series. Adding costs 0.1 us."""

    __slots__ = ("_cells", "_index")

    def __init__(self, cells: Cells, index: int) -> None:
        self._cells = cells
        self._index = index

    def inc(self, count: float = 1) -> None:
        self._cells.values[self._index] += count


class Gauge:
    """One series that is set."""

    __slots__ = ("_cells", "_index")

    def __init__(self, cells: Cells, index: int) -> None:
        self._cells = cells
        self._index = index

    def set(self, value: float) -> None:
        self._cells.values[self._index] = value


class Histogram:
    """Counts by upper bound."""

    __slots__ = ("_bounds", "_cells", "_milliseconds", "_start")

    def __init__(self, cells: Cells, start: int, bounds: Sequence[float]) -> None:
        self._cells = cells
        self._start = start
        self._bounds = bounds
        self._milliseconds = [bound * 1000 for bound in bounds]

    def observe(self, seconds: float, count: int = 1) -> None:
        """`count` events that all took `seconds`."""
        values = self._cells.values
        values[self._start + bisect_left(self._bounds, seconds)] += count
        values[self._start + len(self._bounds) + 1] += seconds * count

    def observe_many(self, milliseconds: Sequence[int]) -> None:
        """A column of events, by a bisection per bound of the sorted column instead of one per value.

        Zeros are not events: such is a batch's column where there is no verdict.
        Measured: 0.02 us a value for a column nearly in order, as answers come; 0.07 in random order.
        """
        ordered = sorted(milliseconds)
        values, cell, below = self._cells.values, self._start, bisect_right(ordered, 0)
        for bound in self._milliseconds:
            if below == len(ordered):
                break
            upto = bisect_right(ordered, bound, below)
            values[cell] += upto - below
            below = upto
            cell += 1
        values[self._start + len(self._bounds)] += len(ordered) - below
        values[self._start + len(self._bounds) + 1] += sum(ordered) / 1000


class LaneMetrics:
    """Events of one (app, provider, class)."""

    def __init__(self, store: Store, app: str, provider: str, lane: Lane) -> None:
        labels = (app, provider, lane.name.lower())
        self._store = store
        self._labels = labels
        self._recipients = {r: store.counter(RECIPIENTS, *labels, r) for r in ("accepted", "refused")}
        self._outcomes = {(verdict, ""): self._outcome_counter(verdict, "") for verdict in Verdict}
        self._states = [(s, store.counter(RECEIPTS, *labels, s.word)) for s in TERMINAL_STATES]
        self._retries = store.counter(RETRIES, *labels)
        self.answers = store.histogram(LATENCY, *labels)
        """Latency: `observe_many(milliseconds)` of a completed batch."""

    def _outcome_counter(self, verdict: Verdict, reason: str) -> Counter:
        return self._store.counter(OUTCOMES, *self._labels, verdict.name.lower(), reason)

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
        self._in_flight = store.gauge(IN_FLIGHT, *labels)
        self._connections = {s: store.gauge(CONNECTIONS, *labels, s) for s in ConnectionState}
        self._handshakes = {r: store.counter(HANDSHAKES, *labels, r) for r in Handshake}
        self._retry_budget = store.gauge(RETRY_BUDGET, *labels)
        self._retries_held_back = store.gauge(RETRIES_HELD_BACK, *labels)
        self._rate_limit = store.gauge(RATE_LIMIT, *labels)
        self._stopped = {c: store.gauge(ROUTES_STOPPED, *labels, c) for c in Cause}
        self._invalid = store.counter(INVALID_TOKENS, *labels)
        self._failures = store.counter(FAILURES, *labels)
        self._dead_lettered = store.counter(DEAD_LETTERED, *labels)
        self._credential_expires = store.gauge(CREDENTIAL_EXPIRES, *labels)
        self._credential_broken = store.gauge(CREDENTIAL_BROKEN, *labels)

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
        self._attempts = {result: store.counter(WEBHOOK_ATTEMPTS, app, name, result) for result in results}
        self._exhausted = store.counter(WEBHOOK_EXHAUSTED, app, name)
        self._messages = [store.gauge(WEBHOOK_MESSAGES, app, name, state) for state in ("pending", "exhausted")]

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
        self._depth = {f: store.gauge(f) for f in (QUEUE_BATCHES, QUEUE_DELIVERIES, QUEUE_AGE)}
        self._limit = store.gauge(QUEUE_LIMIT)
        self._lags = {topic: store.gauge(KAFKA_LAG, topic) for topic in KAFKA_TOPICS}
        self._rebalances = store.counter(KAFKA_REBALANCES)
        self._partitions = store.gauge(KAFKA_PARTITIONS)
        self._dead_letters = store.counter(KAFKA_DEAD_LETTERS)
        self._parked = store.gauge(PARKED)
        self._crashes = store.counter(CRASHES)
        self._restarts = store.counter(RESTARTS)
        self._lag = store.histogram(LOOP_LAG)
        self._skew = store.gauge(CLOCK_SKEW)
        self._shared_state = store.gauge(SHARED_STATE)
        self._tasks = store.gauge(TASKS)
        self._ready = store.gauge(READY)

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
            counter = self._store.counter(HTTP, route, str(status))
            bound = self._http[route, status] = (counter, self._store.histogram(HTTP_SECONDS, route))
        bound[0].inc()
        bound[1].observe(seconds)

    def queue_depth(self, depth: Depth, now: float) -> None:
        """What the queue says, right before `render`."""
        self._depth[QUEUE_BATCHES].set(depth.batches)
        self._depth[QUEUE_DELIVERIES].set(depth.deliveries)
        self._depth[QUEUE_AGE].set(max(0.0, now - depth.oldest_due) if depth.oldest_due is not None else 0.0)

    def queue_limit(self, deliveries: int) -> None:
        """Beyond so many deliveries new jobs are refused."""
        self._limit.set(deliveries)

    def rebalanced(self, partitions: int) -> None:
        """The group changed, and so many partitions are ours."""
        self._rebalances.inc(1)
        self._partitions.set(partitions)

    def lag(self, records: Mapping[str, int]) -> None:
        """Records that are not read yet, by what kind of topic it is (`KAFKA_TOPICS`)."""
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
        return _merged(self._directory, self._slot, sees)

    def registry(self, sees: Sees | None = None) -> CollectorRegistry:
        """What `prometheus_client.exposition` takes."""
        registry = CollectorRegistry()
        registry.register(_Collector(self, sees))
        return registry

    def close(self) -> None:
        """Stop counting; the counts stay."""
        self._store.cells.close()


def clear(directory: Path) -> None:
    """Before a gateway starts: forget what the last one counted.

    Raises:
        SlotTaken: it still runs.
    """
    cells.clear(directory)


class _Collector(Collector):
    def __init__(self, metrics: Metrics, sees: Sees | None) -> None:
        self._metrics = metrics
        self._sees = sees

    def collect(self) -> Iterable[Metric]:
        return self._metrics.collect(self._sees)

    def describe(self) -> Iterable[Metric]:
        return ()


_BY_NAME = {family.name: family for family in FAMILIES}


def _merged(directory: Path, own: str, sees: Sees | None) -> list[Metric]:
    sums: dict[str, dict[tuple[str, ...], list[float]]] = {family.name: {} for family in FAMILIES}
    workers = 0
    for slot in cells.read(directory):
        workers += slot.alive and slot.name != SUPERVISOR
        for (name, *labels), values in slot.series.items():
            if (family := _BY_NAME.get(name)) is None:
                continue
            if family.kind == "gauge" and (not slot.alive or (family.merge == "own" and slot.name != own)):
                continue
            below = sums[name].get(tuple(labels))
            combine = max if family.merge == "max" else float.__add__
            sums[name][tuple(labels)] = values if below is None else list(map(combine, below, values))
    sums[WORKERS.name][()] = [float(workers)]
    if sees is None:
        return [_metric(family, sums[family.name]) for family in FAMILIES]
    return [
        _metric(family, {labels: values for labels, values in sums[family.name].items() if sees(labels[0])})
        for family in FAMILIES
        if family.labels[:1] == ("app",)
    ]


def _metric(family: Family, series: dict[tuple[str, ...], list[float]]) -> Metric:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.meaning, labels=family.labels)
        names = [*map(str, map(float, family.bounds)), "+Inf"]
        for labels, (*buckets, total) in series.items():
            histogram.add_metric(labels, list(zip(names, accumulate(buckets), strict=True)), total)
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.meaning, labels=family.labels)
    for labels, (value,) in series.items():
        metric.add_metric(labels, value)
    return metric
