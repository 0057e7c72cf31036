"""The clock of leases and retries: one for all processes of a machine, set by nobody, never behind itself.

It shows the seconds since the machine started, asleep or awake, behind those of every start before. So a reboot lets
all leases run out and makes due whatever was put off, and setting the wall clock does neither. The wall clock is for
what callers name by it: when a job is to be delivered, and when it expires.
"""

from __future__ import annotations

import time
from pathlib import Path

import apsw

from gateway.queue.rows import only

LONGEST_RUN = 1e9
"""Seconds reserved for each start of the machine: 31 years."""


def uptime() -> float:
    """Seconds since the machine started, those in which it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> bytes:
    """What names this run of the machine; b"" where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return b""


def epoch(db: apsw.Connection, boot: bytes) -> float:
    """What the clock shows at the machine's start; to be added to `uptime`."""
    known, starts = only(db, "SELECT boot, starts FROM machine")
    return float(LONGEST_RUN * (starts + (known != boot)))


def remember(db: apsw.Connection, boot: bytes) -> None:
    """Count this run of the machine, if it was not counted yet."""
    if only(db, "SELECT boot FROM machine") != (boot,):
        db.execute("UPDATE machine SET boot = ?, starts = starts + 1", (boot,))
