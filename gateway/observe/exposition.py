"""All processes' numbers added up, in the form that Prometheus' library writes out.

Whichever worker is asked: a dead worker's counts stay and its gauges go (see `gateway.observe.cells`).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.observe import cells
from gateway.observe.cells import SUPERVISOR
from gateway.observe.families import FAMILIES, WORKERS, Family
from gateway.queue.base import Sees

_BY_NAME = {family.name: family for family in FAMILIES}


def merged(directory: Path, own: str, sees: Sees | None) -> list[Metric]:
    """All slots of the folder, asked by the process whose slot is `own`; `sees` as for `Metrics.collect`."""
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


def registry(directory: Path, own: str, sees: Sees | None) -> CollectorRegistry:
    """The same, collected whenever the registry is."""
    made = CollectorRegistry()
    made.register(_Collector(directory, own, sees))
    return made


class _Collector(Collector):
    def __init__(self, directory: Path, own: str, sees: Sees | None) -> None:
        self._asked = directory, own, sees

    def collect(self) -> Iterable[Metric]:
        return merged(*self._asked)

    def describe(self) -> Iterable[Metric]:
        return ()


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
