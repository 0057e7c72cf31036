"""How much a tenant asks for, counted over all workers of the machine.

Each rate is one number in a file that the workers map into memory: the instant up to which its tenant's allowance is
spent (the theoretical arrival time of GCRA). Taking from it is a load, an addition and a store. Two workers that do it
in the same microsecond may count one for both; nobody waits for a lock for that.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from gateway.access.settings import Quota

FILE = "rates-"
LONGEST_DEBT = 3600.0
"""Seconds for which one job's recipients may keep a tenant waiting; also what a clock of another boot can do."""
CELL = 8
ROUNDING = 1e-6
"""Seconds that sums of instants may be wrong by."""


class Exceeded(Exception):
    """A tenant has asked for more than its share."""

    def __init__(self, detail: str, retry_after: int, headers: Mapping[str, str]) -> None:
        super().__init__(detail)
        self.retry_after = retry_after
        """Seconds."""
        self.headers = headers


class _Rate:
    """One limit of one tenant. `span` seconds' worth may come at once."""

    def __init__(self, name: str, per_second: float, cells: memoryview[float], at: int) -> None:
        self._name = name
        self._interval = 1.0 / per_second
        self._span = max(1.0, self._interval)
        self._quota = max(1, math.floor(per_second * self._span))
        self._cells = cells
        self._at = at

    def wait(self, now: float) -> float:
        """Seconds until one more may come."""
        wait = self._spent(now) + self._interval - now - self._span
        return wait if wait > ROUNDING else 0.0

    def take(self, number: int, now: float) -> None:
        self._cells[self._at] = min(self._spent(now) + number * self._interval, now + LONGEST_DEBT)

    def policy(self) -> str:
        return f'"{self._name}";q={self._quota};w={math.ceil(self._span)}'

    def state(self, now: float) -> str:
        spent = self._spent(now) - now
        left = max(0, math.floor((self._span - spent) / self._interval))
        return f'"{self._name}";r={min(left, self._quota)};t={math.ceil(spent)}'

    def _spent(self, now: float) -> float:
        spent: float = self._cells[self._at]
        return min(max(spent, now), now + LONGEST_DEBT)


class _Limits(NamedTuple):
    """A tenant's."""

    jobs: _Rate | None
    recipients: _Rate | None

    @property
    def set(self) -> list[_Rate]:
        return [rate for rate in self if rate is not None]


class Rates:
    """What each tenant with a limit has left.

    Args:
        folder: where the file is; workers with the same quotas share it.
        quotas: by tenant.
        clock: monotonic seconds, the same in all processes.
    """

    def __init__(self, folder: Path, quotas: Mapping[str, Quota], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        limited = {tenant: quota for tenant, quota in sorted(quotas.items()) if _limits(quota)}
        if limited:
            self._cells = _map(folder / f"{FILE}{_fingerprint(limited)}", 2 * len(limited))
        self._limits = {
            tenant: self._pair(quota, 2 * position) for position, (tenant, quota) in enumerate(limited.items())
        }

    def _pair(self, quota: Quota, at: int) -> _Limits:
        jobs, recipients = quota.jobs_per_second, quota.recipients_per_second
        return _Limits(
            None if jobs is None else _Rate("jobs", jobs, self._cells, at),
            None if recipients is None else _Rate("recipients", recipients, self._cells, at + 1),
        )

    def take_job(self, tenant: str) -> None:
        """One more job of a tenant comes.

        Raises:
            Exceeded: it has to wait.
        """
        rates = self._limits.get(tenant)
        if rates is None:
            return
        now = self._clock()
        wait = max(rate.wait(now) for rate in rates.set)
        if wait > 0:
            detail = "This tenant has sent as much as it may for now. Send the job again after `Retry-After` seconds."
            raise Exceeded(detail, math.ceil(wait), self.headers(tenant))
        if rates.jobs is not None:
            rates.jobs.take(1, now)

    def take_recipients(self, tenant: str, number: int) -> None:
        """So many recipients were taken in."""
        rates = self._limits.get(tenant)
        if rates is not None and rates.recipients is not None:
            rates.recipients.take(number, self._clock())

    def headers(self, tenant: str) -> dict[str, str]:
        """`RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers); none where nothing is limited."""
        rates = self._limits.get(tenant)
        if rates is None:
            return {}
        now = self._clock()
        return {
            "RateLimit-Policy": ", ".join(rate.policy() for rate in rates.set),
            "RateLimit": ", ".join(rate.state(now) for rate in rates.set),
        }


def clear(folder: Path) -> None:
    """Forget what was counted, before workers start."""
    for path in folder.glob(f"{FILE}*"):
        path.unlink(missing_ok=True)


def _limits(quota: Quota) -> bool:
    return quota.jobs_per_second is not None or quota.recipients_per_second is not None


def _fingerprint(quotas: Mapping[str, Quota]) -> str:
    """Where whose numbers are depends on all of them; a worker with other settings has another file."""
    limits = [(tenant, quota.jobs_per_second, quota.recipients_per_second) for tenant, quota in quotas.items()]
    return hashlib.sha256(repr(limits).encode()).hexdigest()[:16]


def _map(path: Path, cells: int) -> memoryview[float]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, cells * CELL)
        return memoryview(mmap.mmap(descriptor, cells * CELL)).cast("d")
    finally:
        os.close(descriptor)
