"""The whole road with real processes: HTTP in, queue, dispatch, wire, simulated services, receipts out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

PROGRAM = [sys.executable, "-m"]


def run(*arguments: str, timeout: float = 110.0) -> dict[str, Any]:
    """A program's last line, which is its report; it has to end with status 0."""
    done = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def assert_clean(report: dict[str, Any], accepted: int) -> None:
    ledger = report["ledger"]
    assert ledger["accepted"] == ledger["receipts"] == accepted
    assert (ledger["missing"], ledger["extra"], ledger["non_terminal"]) == (0, 0, 0)
    assert ledger["duplicates"] <= ledger["duplicates_bound"]


def states(report: dict[str, Any], providers: Sequence[str] = ("apns", "fcm", "webpush")) -> set[str]:
    return {state for provider in providers for state in report["receipts"][provider]}


def test_demo_accounts_for_every_recipient() -> None:
    """Good, dead, throttled, failing, refused and expiring recipients all end, and in the states that are meant."""
    report = run("gateway", "demo", "--count", "6000", "--json")
    assert_clean(report, 6000)
    assert {"accepted", "invalid_token", "expired", "rejected"} <= states(report)
    assert report["receipts"]["fcm"]["expired"] > 50
    assert report["ledger"]["duplicates"] == 0


def test_demo_survives_the_kill_of_a_worker() -> None:
    """What was on the wire of the killed worker is unknown or was sent again; everything else is untouched by it."""
    report = run("gateway", "demo", "--count", "12000", "--kill", "--json")
    assert report["killed"]
    assert_clean(report, 12000)


@pytest.mark.parametrize("provider", ["apns", "fcm", "webpush"])
def test_throughput_reports_a_clean_ledger(provider: str) -> None:
    report = run("bench", "throughput", "--provider", provider, "--count", "3000", "--json")
    assert_clean(report, report["ledger"]["accepted"])
    assert report["ledger"]["accepted"] > report["count"] == 3000  # the warm-up is accounted for as well
    assert report["gateway_cpu_us"] > 0
    assert report["latency_ms"]["p50"] <= report["latency_ms"]["p999"]


def test_a_streamed_request_of_any_length_takes_bounded_memory() -> None:
    """150 MiB hold for a million recipients; so they do for a tenth of that, or memory grows with the request."""
    report = run("bench", "ingest", "--count", "100000", "--json")
    assert_clean(report, 110_000)
    assert report["rss_mib"]["gateway"] < 150
