"""How routes stand, told to those who look: gauges for Prometheus, sentences for `/readyz`, lines for the log.

So are batches that cannot be prepared.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path

import structlog

from gateway.dispatch.breaker import Cause
from gateway.dispatch.sender import Sender
from gateway.model import Route
from gateway.observe.families import Cause as Stopped
from gateway.observe.families import ConnectionState
from gateway.observe.health import Readiness
from gateway.observe.metrics import Metrics
from gateway.queue.base import Lease

ADVICE: Mapping[Cause, str] = {
    Cause.UNAVAILABLE: "jobs wait, and one request at a time tries whether it is back",
    Cause.THROTTLED: "jobs wait as the service asked",
    Cause.CREDENTIAL: "jobs wait; see `carillon credentials list`",
    Cause.MISCONFIGURED: "jobs wait and no token is invalidated; check environment, topic and project",
}

FOR_AN_OPERATOR = (Cause.CREDENTIAL, Cause.MISCONFIGURED)
"""Holds that do not end by themselves, or had better not."""

log = structlog.get_logger()


class Standing:
    """One worker's view of its routes."""

    def __init__(self, metrics: Metrics, readiness: Readiness) -> None:
        self._metrics = metrics
        self._readiness = readiness
        self._causes: dict[Route, Cause] = {}
        self._aside: dict[bytes, str] = {}  # batch -> what is reported of it

    def sample(self, ways: Iterable[tuple[str, str]], senders: Iterable[Sender]) -> None:
        """Set the gauges of these (app, provider)s; to be called about once a second."""
        by_way: dict[tuple[str, str], list[Sender]] = {way: [] for way in ways}
        for sender in senders:
            by_way[sender.route.app, sender.route.provider].append(sender)
        for (app, provider), group in by_way.items():
            metrics = self._metrics.route(app, provider)
            counts = [sender.pool.counts() for sender in group]
            metrics.in_flight(sum(sender.load().on_wire for sender in group))
            metrics.connections(ConnectionState.CONNECTING, sum(count.dialling for count in counts))
            metrics.connections(ConnectionState.OPEN, sum(count.open for count in counts))
            metrics.connections(ConnectionState.DRAINING, sum(count.draining for count in counts))
            now = asyncio.get_running_loop().time()
            metrics.retry_budget(
                left=sum(max(0, sender.budget.room(now)) for sender in group),
                held_back=sum(sender.held_back(now) for sender in group),
            )
            metrics.rate_limit(sum(sender.governor.rate or 0.0 for sender in group))
            causes = [sender.breaker.cause for sender in group]
            broken = sum(cause in FOR_AN_OPERATOR for cause in causes)
            metrics.stopped(Stopped.MISCONFIGURED, broken)
            metrics.stopped(Stopped.HELD, sum(cause is not None for cause in causes) - broken)

    def report(self, sender: Sender) -> None:
        """Say how a route stands, and log when that changes."""
        cause, name = sender.breaker.cause, _name(sender.route)
        if cause is not None:
            sentence = f"{cause.value}: {sender.breaker.reason}; {ADVICE[cause]}"
            self._readiness.report(name, False, sentence)
        elif sender.pool.failure is not None:
            self._readiness.report(name, False, f"cannot connect: {sender.pool.failure.detail}; jobs wait")
        else:
            self._readiness.forget(name)
        self._log(sender.route, cause, sender.breaker.reason)

    def forget(self, route: Route) -> None:
        """A route that is not in use has no standing."""
        self._causes.pop(route, None)
        self._readiness.forget(_name(route))

    def set_aside(self, lease: Lease, error: Exception) -> None:
        """Say that a batch cannot be prepared. Where the error was raised is said, and not its words: they may hold
        what somebody wrote into a message."""
        where, failures = _where(error), lease.failures + 1
        self._metrics.route(lease.route.app, lease.route.provider).failed()
        log.error("batch.set_aside", job=lease.job.id, batch=lease.batch_id.hex(), failures=failures, error=where)
        part = self._aside[lease.batch_id] = f"job {lease.job.id}"
        advice = "it is tried again and then dead-lettered; cancel the job, or report the error"
        self._readiness.report(part, False, f"a batch of it cannot be prepared ({where}), {failures} times: {advice}")

    def dead_lettered(self, lease: Lease, error: Exception) -> str:
        """Say that a batch failed too often, and how its receipts say so."""
        where, failures = _where(error), lease.failures + 1
        metrics = self._metrics.route(lease.route.app, lease.route.provider)
        metrics.failed()
        metrics.dead_lettered()
        log.error("batch.dead_lettered", job=lease.job.id, batch=lease.batch_id.hex(), failures=failures, error=where)
        return f"could not be prepared, {failures} times: {where}"

    def completed(self, lease: Lease) -> None:
        """A batch has ended, whatever was said of it before."""
        part = self._aside.pop(lease.batch_id, None)
        if part is not None and part not in self._aside.values():
            self._readiness.forget(part)

    def _log(self, route: Route, cause: Cause | None, reason: str) -> None:
        former = self._causes.get(route)
        if cause is former:
            return
        if cause is None:
            del self._causes[route]
            log.info("route.released", app=route.app, provider=route.provider, origin=route.origin)
            return
        self._causes[route] = cause
        if cause in FOR_AN_OPERATOR:
            log.error("route.stopped", app=route.app, provider=route.provider, cause=cause.value, reason=reason)
        else:
            log.warning("route.held", app=route.app, provider=route.provider, cause=cause.value, reason=reason)


def _where(error: Exception) -> str:
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {at.name}, line {at.lineno} of {Path(at.filename).name}"


def _name(route: Route) -> str:
    return f"route {route.app}/{route.provider}" + (f" {route.origin}" if route.origin else "")
