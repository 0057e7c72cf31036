"""The published table: what is counted, what each count means, and what it does not mean.

Labels are few and known at start: `app` and `provider` as configured, `class` is promotional or transactional. Nothing
is labelled by token, origin, job or campaign.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, NamedTuple


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
ANSWER_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 21600, 86400)
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
    "dispatch, per completed batch", ANSWER_BOUNDS,
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
