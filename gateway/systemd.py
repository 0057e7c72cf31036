"""A line to systemd: what a service of `Type=notify` tells its manager (sd_notify(3)), without its library."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def notify(*lines: str) -> None:
    """Tell systemd `READY=1`, `WATCHDOG=1`, `STATUS=…`; without a `NOTIFY_SOCKET` nobody listens, and nothing happens.

    It waits for nobody: what a manager that is busy has no room for is not told.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line, suppress(OSError):
        line.setblocking(False)
        line.sendto("\n".join(lines).encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
