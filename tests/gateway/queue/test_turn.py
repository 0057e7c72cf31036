"""Processes take turns at writing."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import apsw
import pytest

from gateway.queue.turn import Turnstile


def test_one_at_a_time(tmp_path: Path) -> None:
    """Who waits gets in when the other is out."""
    first, second = Turnstile(tmp_path / "turn", 10), Turnstile(tmp_path / "turn", 10)
    entered = threading.Event()

    def enter() -> None:
        with second:
            entered.set()

    thread = threading.Thread(target=enter)
    with first:
        thread.start()
        assert not entered.wait(0.05)
    thread.join(10)
    assert entered.is_set()
    first.close()
    second.close()


def test_patience_ends(tmp_path: Path) -> None:
    """The wait for somebody who is stuck is bounded, and the lock ends with its process."""
    first, second = Turnstile(tmp_path / "turn", 10), Turnstile(tmp_path / "turn", 0.02)
    with first:
        started = time.monotonic()
        with pytest.raises(apsw.BusyError), second:
            pass
        assert time.monotonic() - started < 5
    first.__enter__()
    first.close()
    with second:
        pass
    second.close()
