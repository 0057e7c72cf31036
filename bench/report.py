"""What every scenario says at its end: one JSON object, the same fields everywhere."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import ssl
import statistics
from collections.abc import Sequence
from typing import Any

from hdrh.histogram import HdrHistogram

from bench.ledger import Balance
from bench.processes import ProcessFailed
from bench.repository import git
from bench.stage import Measured

_PACKAGES = ("carillon", "aiohttp", "apsw", "cryptography", "msgspec", "uvloop")
_REPEATED = ("gateway_cpu_us", "per_second", "ratio")
_DAY_MS = 86_400_000


def latency(milliseconds: list[float]) -> dict[str, float]:
    """Percentiles, by HdrHistogram with three significant digits."""
    if not milliseconds:
        return {}
    histogram = _histogram(milliseconds)
    points = {"p50": 50.0, "p99": 99.0, "p999": 99.9, "max": 100.0}
    return {name: _at(histogram, point) for name, point in points.items()}


def distribution(milliseconds: list[float]) -> list[tuple[float, float]]:
    """Percentile and milliseconds, closer together towards the end, for a plot."""
    histogram = _histogram(milliseconds)
    points = [0.0, 25.0, *(100 - 50 / 2**step for step in range(12)), 100.0]
    return [(round(point, 3), _at(histogram, point)) for point in points]


def _histogram(milliseconds: list[float]) -> HdrHistogram:
    histogram = HdrHistogram(1, _DAY_MS * 1000, 3)
    for value in milliseconds:
        histogram.record_value(max(1, int(value * 1000)))
    return histogram


def _at(histogram: HdrHistogram, percentile: float) -> float:
    microseconds: int = histogram.get_value_at_percentile(percentile)
    return round(microseconds / 1000, 3)


def cost(counted: Measured) -> dict[str, Any]:
    """What a measured campaign cost, and how busy its sink was."""
    return {
        "wall_seconds": round(counted.wall, 3),
        "per_second": round(counted.notifications / counted.wall),
        "cpu_seconds": {
            "gateway": round(counted.gateway_seconds, 3),
            "sink": round(counted.sink_seconds, 3),
            "client": round(counted.client_seconds, 3),
        },
        "gateway_cpu_us": round(counted.gateway_cpu_us, 2),
        "sink_utilisation": round(counted.sink_seconds / counted.wall, 2),
        "rss_mib": {"gateway": round(counted.rss_mib, 1)},
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and extremes of repetitions, with all of them in their order."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "all": list(values)}


def median(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The report of the run with the median cost, with the spread over all runs; clean if they all are."""
    if len(reports) == 1:
        return reports[0]
    middle = sorted(reports, key=lambda report: float(report["gateway_cpu_us"]))[(len(reports) - 1) // 2]
    spreads = {name: spread([report[name] for report in reports]) for name in _REPEATED if name in middle}
    return {**middle, "clean": all(report["clean"] for report in reports), "repeat": len(reports), "spread": spreads}


def ledger(balance: Balance) -> dict[str, int]:
    return balance._asdict()


def surroundings() -> dict[str, Any]:
    """Where and with what it ran."""
    machine = {
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
    }
    versions = {"python": platform.python_version(), "openssl": ssl.OPENSSL_VERSION}
    versions |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"machine": machine, "versions": versions}


def origin() -> dict[str, str]:
    """Of which commit, and when; a working tree with changes says so, apart from results and their pages, which a run
    changes itself."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
    try:
        commit = git("rev-parse", "--short=10", "HEAD").decode().strip()
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":/!bench/results", ":/!docs")
    except ProcessFailed:
        return {"commit": "unknown", "date": now}
    return {"commit": f"{commit}-dirty" if changed else commit, "date": now}


def print_json(report: dict[str, Any]) -> None:
    print(json.dumps(report), flush=True)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
