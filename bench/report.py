"""What every scenario says at its end: one JSON object, the same fields everywhere."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import ssl
from typing import Any

from hdrh.histogram import HdrHistogram

from bench.ledger import Balance

_PACKAGES = ("carillon", "aiohttp", "apsw", "cryptography", "msgspec", "uvloop")
_DAY_MS = 86_400_000


def latency(milliseconds: list[float]) -> dict[str, float]:
    """Percentiles, by HdrHistogram with three significant digits."""
    if not milliseconds:
        return {}
    histogram = HdrHistogram(1, _DAY_MS * 1000, 3)
    for value in milliseconds:
        histogram.record_value(max(1, int(value * 1000)))
    points = {"p50": 50.0, "p99": 99.0, "p999": 99.9, "max": 100.0}
    return {name: round(histogram.get_value_at_percentile(point) / 1000, 3) for name, point in points.items()}


def ledger(balance: Balance) -> dict[str, int]:
    return balance._asdict()


def surroundings() -> dict[str, Any]:
    """Where and with what it ran."""
    machine = {
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
    }
    versions = {"python": platform.python_version(), "openssl": ssl.OPENSSL_VERSION}
    versions |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"machine": machine, "versions": versions}


def print_json(report: dict[str, Any]) -> None:
    print(json.dumps(report), flush=True)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
