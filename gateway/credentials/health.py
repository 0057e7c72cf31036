"""What is wrong, or will be, with the credentials at work: for `/readyz`, metrics and the log."""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog

from gateway.credentials.records import Record, State
from gateway.observe.health import Readiness
from gateway.observe.metrics import Metrics

DAY = 86400.0
ALARMS = (30, 7, 1)
"""Days before its end at which a credential is told of in the log, and from the first of which on in `/readyz`."""

log = structlog.get_logger()


class Health:
    """One worker's look at them."""

    def __init__(self, metrics: Metrics, readiness: Readiness) -> None:
        self._metrics = metrics
        self._readiness = readiness
        self._said: set[str] = set()
        self._unusable: dict[str, str] = {}
        self._alarmed: dict[int, int] = {}

    def unusable(self, record: Record, reason: str) -> None:
        """It cannot be loaded."""
        self._unusable[_part(record)] = f"it ({record.fingerprint}) cannot be used: {reason}"

    def look(self, rows: Sequence[Record], now: float) -> None:
        """Say how they are; to be called about once a second."""
        parts = {_part(row) for row in rows}
        self._unusable = {part: words for part, words in self._unusable.items() if part in parts}
        said = dict(self._unusable)
        for row in rows:
            route = self._metrics.route(row.app, row.provider)
            if row.state == State.ACTIVE:
                route.credential(
                    expires_in=None if row.expires is None else row.expires - now, broken=bool(row.trouble)
                )
            if row.state == State.ACTIVE and row.trouble:
                said[_part(row)] = (
                    f"its service refuses it ({row.fingerprint}): {row.trouble}; jobs wait until they "
                    "expire. Add another one: `carillon credentials add`"
                )
            elif row.expires is not None and row.expires - now < ALARMS[0] * DAY:
                said[_part(row)] = _ending(row, now)
                self._alarm(row, now)
        for part in self._said - said.keys():
            self._readiness.forget(part)
        for part, words in said.items():
            self._readiness.report(part, False, words)
        self._said = set(said)

    def _alarm(self, row: Record, now: float) -> None:
        """A line in the log at each of the days."""
        assert row.expires is not None
        days = min(day for day in ALARMS if row.expires - now < day * DAY)
        if self._alarmed.get(row.number) != days:
            self._alarmed[row.number] = days
            log.warning("credential.expires", credential=row.number, app=row.app, provider=row.provider, days=days)


def _ending(row: Record, now: float) -> str:
    assert row.expires is not None
    ends = time.strftime("%Y-%m-%d", time.gmtime(row.expires))
    if row.expires <= now:
        return f"it ({row.fingerprint}) ended on {ends}: rotate it now"
    return f"it ({row.fingerprint}) ends on {ends}: have a new one issued, and rotate it"


def _part(record: Record) -> str:
    return f"credential {record.number} of {record.owner}"
