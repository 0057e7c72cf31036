"""Makes the requests that credentials ask for (FCM's token exchange) and feeds them the answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container, Iterable

import structlog

from gateway.credentials.store import Signing
from gateway.http2.pool import tls_context
from gateway.http2.single import RequestFailed, post
from gateway.observe.health import Readiness
from providers.base import Exchange, Outcome, Verdict

RETRY_FLOOR = 1.0
RETRY_CEILING = 60.0
REFUSED_RETRY = 60.0

log = structlog.get_logger()


class Exchanges:
    """At most one request a credential at a time, with back-off. Failures show in readiness."""

    def __init__(
        self,
        signings: Callable[[], Iterable[Signing]],
        readiness: Readiness,
        wake: Callable[[], None],
    ) -> None:
        """`signings` are all that sign, or may soon; `wake` is called on success."""
        self._signings = signings
        self._readiness = readiness
        self._wake = wake
        self._running: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}
        self._failures: dict[str, int] = {}

    def tick(self, now: float, wall: float) -> None:
        """Start what is due."""
        for signing in self._signings():
            if signing.name in self._running or now < self._not_before.get(signing.name, 0.0):
                continue
            exchange = signing.credential.exchange(wall)
            if exchange is not None:
                self._running[signing.name] = asyncio.create_task(self._run(signing, exchange))

    def hold(self, name: str, now: float) -> float | None:
        """Seconds until a credential's exchange is tried again; None if the last one did not fail."""
        return max(0.0, self._not_before[name] - now) if name in self._failures else None

    def forget(self, names: Container[str]) -> None:
        """Only credentials with these names are left."""
        for name in [name for name in self._failures if name not in names]:
            del self._failures[name], self._not_before[name]
            self._readiness.forget(f"credential {name}")

    async def close(self) -> None:
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _run(self, signing: Signing, exchange: Exchange) -> None:
        try:
            answer = await post(exchange, tls_context(signing.ca_file))
            outcome = signing.credential.exchanged(answer.status, answer.headers, answer.body, time.time())
        except RequestFailed as error:
            outcome = Outcome(Verdict.UNAVAILABLE, str(error))
        except Exception as error:  # its words may hold what is secret
            outcome = Outcome(Verdict.CREDENTIAL, type(error).__name__)
        finally:
            del self._running[signing.name]
        self._conclude(signing, outcome)

    def _conclude(self, signing: Signing, outcome: Outcome) -> None:
        now, name = asyncio.get_running_loop().time(), signing.name
        if outcome.verdict is Verdict.ACCEPTED:
            self._failures.pop(name, None)
            self._not_before.pop(name, None)
            self._readiness.forget(f"credential {name}")
            self._wake()
            return
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        if outcome.verdict is Verdict.CREDENTIAL:
            wait, advice = REFUSED_RETRY, "check the service account's key and permissions"
            # What it was granted before may be good for a while yet; for a canary that is no reason to wait.
            if signing.share or signing.credential.headers("", time.time()) is None:
                signing.refuse(outcome.reason)
        else:
            wait = min(RETRY_CEILING, RETRY_FLOOR * 2.0 ** min(failures - 1, 30))
            advice = "it will be tried again"
        self._not_before[name] = now + max(wait, outcome.retry_after or 0.0)
        self._readiness.report(f"credential {name}", False, f"no access token ({outcome.reason}); {advice}")
        log.warning("credential.exchange_failed", credential=name, reason=outcome.reason)
