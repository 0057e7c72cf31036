"""Makes the requests that credentials ask for (FCM's token exchange) and feeds them the answers."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable

import structlog

from gateway.http2.single import RequestFailed, post
from gateway.observe.health import Readiness
from providers.base import Credential, Exchange, Outcome, Verdict

RETRY_FLOOR = 1.0
RETRY_CEILING = 60.0
REFUSED_RETRY = 60.0

log = structlog.get_logger()


class Exchanges:
    """At most one request a credential at a time, with back-off. Failures show in readiness."""

    def __init__(
        self,
        credentials: Iterable[tuple[str, Credential, ssl.SSLContext]],
        readiness: Readiness,
        wake: Callable[[], None],
    ) -> None:
        """Of each credential its name for people (`app/provider`) and the TLS to use; `wake` is called on success."""
        self._credentials = tuple(credentials)
        self._readiness = readiness
        self._wake = wake
        self._running: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}
        self._failures: dict[str, int] = {}

    def tick(self, now: float, wall: float) -> None:
        """Start what is due."""
        for name, credential, tls in self._credentials:
            if name in self._running or now < self._not_before.get(name, 0.0):
                continue
            exchange = credential.exchange(wall)
            if exchange is not None:
                self._running[name] = asyncio.create_task(self._run(name, credential, exchange, tls))

    def hold(self, name: str, now: float) -> float | None:
        """Seconds until a credential's exchange is tried again; None if the last one did not fail."""
        return max(0.0, self._not_before[name] - now) if name in self._failures else None

    async def close(self) -> None:
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _run(self, name: str, credential: Credential, exchange: Exchange, tls: ssl.SSLContext) -> None:
        try:
            answer = await post(exchange, tls)
            outcome = credential.exchanged(answer.status, answer.headers, answer.body, time.time())
        except RequestFailed as error:
            outcome = Outcome(Verdict.UNAVAILABLE, str(error))
        except Exception as error:  # its words may hold what is secret
            outcome = Outcome(Verdict.CREDENTIAL, type(error).__name__)
        finally:
            del self._running[name]
        self._conclude(name, outcome)

    def _conclude(self, name: str, outcome: Outcome) -> None:
        now = asyncio.get_running_loop().time()
        if outcome.verdict is Verdict.ACCEPTED:
            self._failures.pop(name, None)
            self._readiness.forget(f"credential {name}")
            self._wake()
            return
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        if outcome.verdict is Verdict.CREDENTIAL:
            wait, advice = REFUSED_RETRY, "check the service account's key and permissions"
        else:
            wait = min(RETRY_CEILING, RETRY_FLOOR * 2.0 ** min(failures - 1, 30))
            advice = "it will be tried again"
        self._not_before[name] = now + max(wait, outcome.retry_after or 0.0)
        self._readiness.report(f"credential {name}", False, f"no access token ({outcome.reason}); {advice}")
        log.warning("credential.exchange_failed", credential=name, reason=outcome.reason)
