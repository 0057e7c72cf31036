"""How busy this process is."""

from __future__ import annotations

import time

INTERVAL = 0.1


class CpuShare:
    """The share of one core that this process used during the last tenth of a second or so; 1.0 is a whole core."""

    def __init__(self) -> None:
        self._wall = time.monotonic()
        self._cpu = time.process_time()
        self._share = 0.0

    def __call__(self) -> float:
        wall = time.monotonic()
        if wall - self._wall >= INTERVAL:
            cpu = time.process_time()
            self._share = (cpu - self._cpu) / (wall - self._wall)
            self._wall, self._cpu = wall, cpu
        return self._share
