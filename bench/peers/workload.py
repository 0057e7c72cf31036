"""What a peer's program is told, and how it says what it does: the Python programs' side of `README.md`.

Nothing but the standard library: this runs in each peer's own environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Workload(NamedTuple):
    """What to send, and where."""

    host: str
    port: int
    ca_file: str
    warm_up: list[str]
    """Targets to be sent to before the clock starts."""
    counted: list[str]
    payload: str

    @property
    def origin(self) -> str:
        return f"https://{self.host}:{self.port}"


def load() -> Workload:
    """The workload of the environment."""
    targets = Path(os.environ["TARGETS"]).read_text().split("\n")
    warm_up = int(os.environ["WARM_UP"])
    return Workload(
        os.environ["SINK_HOST"],
        int(os.environ["SINK_PORT"]),
        os.environ["CA_FILE"],
        targets[:warm_up],
        targets[warm_up:],
        Path(os.environ["PAYLOAD"]).read_text(),
    )


def subscription(target: str) -> dict[str, Any]:
    """A Web Push target as its libraries take it."""
    document: dict[str, Any] = json.loads(target)
    return document


async def measure(
    warm_up: Sequence[T], counted: Sequence[T], send: Callable[[T], Awaitable[int]], concurrency: int
) -> None:
    """Send both between their marks, `concurrency` at a time; `send` says how many the service accepted."""
    await _drain(warm_up, send, concurrency)
    _mark("ready")
    accepted = await _drain(counted, send, concurrency)
    _mark(f"done {accepted}")


def measure_driven(warm_up: Callable[[], int], counted: Callable[[], int]) -> None:
    """As `measure`, for programs that have another one send; each says how many were accepted."""
    warm_up()
    _mark("ready")
    accepted = counted()
    _mark(f"done {accepted} {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024}")


async def _drain(items: Sequence[T], send: Callable[[T], Awaitable[int]], concurrency: int) -> int:
    remaining = iter(items)
    workers = (_work(remaining, send) for _ in repeat(None, min(concurrency, len(items))))
    return sum(await asyncio.gather(*workers))


async def _work(remaining: Iterator[T], send: Callable[[T], Awaitable[int]]) -> int:
    accepted = 0
    for item in remaining:
        accepted += await send(item)
    return accepted


def portions(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _mark(line: str) -> None:
    """Say where the program is, and wait until it has been measured there."""
    print(line, flush=True)
    sys.stdin.readline()
