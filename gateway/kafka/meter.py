"""What is counted and said of this machine's place in the group."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.observe.health import Readiness
from gateway.observe.metrics import Metrics

PART = "kafka"
"""Of readiness: shown, and nobody is unready for it. A gateway without partitions still takes jobs in."""


class GroupMeter:
    """`mirror.Meter` for the metrics and `/readyz`."""

    def __init__(self, metrics: Metrics, readiness: Readiness) -> None:
        self._metrics = metrics
        self._readiness = readiness
        self._partitions = 0

    def rebalanced(self, partitions: int) -> None:
        self._partitions = partitions
        self._metrics.rebalanced(partitions)

    def lag(self, records: Mapping[str, int]) -> None:
        self._metrics.lag(records)
        told = ", ".join(f"{count:,} {kind}" for kind, count in sorted(records.items()))
        self._readiness.report(PART, True, f"{self._partitions} partitions; records behind: {told or 0}")

    def dead_letter(self) -> None:
        self._metrics.dead_letter()

    def failed(self, reason: str) -> None:
        self._readiness.report(PART, False, f"{reason}. It is tried again")
