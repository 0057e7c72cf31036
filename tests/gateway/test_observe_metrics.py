"""Counting per batch, over all workers, the dead ones included."""

from __future__ import annotations

import subprocess
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway.model import TERMINAL_STATES, Lane, State
from gateway.observe import cells
from gateway.observe.cells import SUPERVISOR, Cells, SlotTaken, clear
from gateway.observe.families import FAMILIES, LATENCY, Cause, ConnectionState, Handshake
from gateway.observe.metrics import UNCONFIGURED, Metrics
from gateway.queue.base import Depth
from providers.base import Verdict

ROUTES = [("shop", "apns"), ("shop", "fcm")]


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[Metrics]:
    made = Metrics(tmp_path, "worker-0", ROUTES)
    yield made
    made.close()


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What a scrape gives, by sample name and labels."""
    text = generate_latest(metrics.registry()).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    labels = {key.rstrip("_"): text for key, text in labels.items()}
    return samples(metrics).get((name, frozenset(labels.items())))


PROMOTIONAL = {"app": "shop", "provider": "apns", "class_": "promotional"}


def test_every_event_is_counted_under_its_labels(metrics: Metrics) -> None:
    """Each method adds to the series that its docstring and table say."""
    lane, route = metrics.lane("shop", "apns", Lane.PROMOTIONAL), metrics.route("shop", "apns")
    lane.recipients(accepted=7, refused=2)
    lane.outcome(Verdict.ACCEPTED, count=5)
    lane.outcome(Verdict.UNREGISTERED, "Unregistered")
    lane.retried(3)
    lane.completed(bytes([State.ACCEPTED] * 4 + [State.EXPIRED, State.PENDING]))
    route.handshake(Handshake.ALPN)
    route.in_flight(11)
    route.connections(ConnectionState.OPEN, 2)
    route.stopped(Cause.MISCONFIGURED, 1)
    route.invalid_tokens(6)
    route.retry_budget(left=12, held_back=5)
    route.rate_limit(450.5)
    metrics.http_request("/v1/jobs/{id}", 404, 0.002)
    metrics.loop_lag(0.3)
    metrics.queue_depth(Depth(batches=3, deliveries=2500, oldest_due=100.0), now=130.0)

    apns = {"app": "shop", "provider": "apns"}
    assert value(metrics, "carillon_retry_budget", **apns) == 12
    assert value(metrics, "carillon_retries_held_back", **apns) == 5
    assert value(metrics, "carillon_rate_limit", **apns) == 450.5
    assert value(metrics, "carillon_recipients_total", **PROMOTIONAL, result="accepted") == 7
    assert value(metrics, "carillon_recipients_total", **PROMOTIONAL, result="refused") == 2
    assert value(metrics, "carillon_outcomes_total", **PROMOTIONAL, outcome="accepted", reason="") == 5
    assert value(metrics, "carillon_outcomes_total", **PROMOTIONAL, outcome="unregistered", reason="Unregistered") == 1
    assert value(metrics, "carillon_retries_total", **PROMOTIONAL) == 3
    assert value(metrics, "carillon_receipts_total", **PROMOTIONAL, state="accepted") == 4
    assert value(metrics, "carillon_receipts_total", **PROMOTIONAL, state="expired") == 1
    assert value(metrics, "carillon_handshakes_total", **apns, result="alpn") == 1
    assert value(metrics, "carillon_in_flight", **apns) == 11
    assert value(metrics, "carillon_connections", **apns, state="open") == 2
    assert value(metrics, "carillon_routes_stopped", **apns, cause="misconfigured") == 1
    assert value(metrics, "carillon_invalid_tokens_total", **apns) == 6
    assert value(metrics, "carillon_http_requests_total", route="/v1/jobs/{id}", status="404") == 1
    assert value(metrics, "carillon_http_request_seconds_count", route="/v1/jobs/{id}") == 1
    assert value(metrics, "carillon_loop_lag_seconds_bucket", le="0.25") == 0
    assert value(metrics, "carillon_loop_lag_seconds_bucket", le="0.5") == 1
    assert value(metrics, "carillon_queue_batches") == 3
    assert value(metrics, "carillon_queue_deliveries") == 2500
    assert value(metrics, "carillon_queue_oldest_due_seconds") == 30
    assert value(metrics, "carillon_workers") == 1


def test_all_label_sets_exist_before_the_first_event(metrics: Metrics) -> None:
    """An alert on a rate needs the zero before the one."""
    seen = samples(metrics)
    for app, provider in ROUTES:
        for lane in ("transactional", "promotional"):
            labels = {"app": app, "provider": provider, "class": lane}
            for state in TERMINAL_STATES:
                assert seen["carillon_receipts_total", frozenset({**labels, "state": state.word}.items())] == 0
            for verdict in Verdict:
                outcome = {**labels, "outcome": verdict.name.lower(), "reason": ""}
                assert seen["carillon_outcomes_total", frozenset(outcome.items())] == 0
            assert seen["carillon_answer_seconds_count", frozenset(labels.items())] == 0


def test_every_family_is_exposed_with_its_meaning(metrics: Metrics) -> None:
    """What the table lists is what a scrape shows, in the names Prometheus wants, and nothing else."""
    text = generate_latest(metrics.registry()).decode()
    shown = {line.split()[2].removesuffix("_total") for line in text.splitlines() if line.startswith("# HELP")}
    assert shown == {family.name for family in FAMILIES}
    for family in FAMILIES:
        assert family.name.startswith("carillon_")
        assert family.meaning.endswith(".")
        assert family.touched


def test_workers_add_up_and_a_dead_ones_gauges_go(tmp_path: Path) -> None:
    """Any worker answers for all: counts of the dead stay, their levels do not."""
    ours = Metrics(tmp_path, "worker-0", ROUTES)
    other = Metrics(tmp_path, "worker-1", ROUTES)
    for worker in (ours, other):
        worker.lane("shop", "apns", Lane.PROMOTIONAL).retried(10)
        worker.route("shop", "apns").in_flight(100)
        worker.route("shop", "apns").stopped(Cause.HELD, 1)
        worker.loop_lag(0.002)
        worker.ready(True)
        worker.queue_limit(5_000)
    apns = {"app": "shop", "provider": "apns"}
    assert value(ours, "carillon_retries_total", **PROMOTIONAL) == 20
    assert value(ours, "carillon_in_flight", **apns) == 200
    assert value(ours, "carillon_routes_stopped", **apns, cause="held") == 1
    assert value(ours, "carillon_workers") == value(ours, "carillon_ready_workers") == 2
    assert value(ours, "carillon_queue_high_water_deliveries") == 5_000
    ours.ready(False)
    assert value(ours, "carillon_ready_workers") == 1
    other.close()
    assert value(ours, "carillon_ready_workers") == 0
    assert value(ours, "carillon_retries_total", **PROMOTIONAL) == 20
    assert value(ours, "carillon_loop_lag_seconds_count") == 2
    assert value(ours, "carillon_in_flight", **apns) == 100
    assert value(ours, "carillon_workers") == 1
    ours.close()


def test_a_restarted_worker_goes_on_counting(tmp_path: Path) -> None:
    """Its counters continue where its predecessor died, so that rates do not jump; its gauges begin at zero."""
    for expected in (5, 10):
        worker = Metrics(tmp_path, "worker-0", ROUTES)
        assert value(worker, "carillon_in_flight", app="shop", provider="apns") == 0
        worker.lane("shop", "apns", Lane.PROMOTIONAL).outcome(Verdict.REJECTED, "BadTopic", 5)
        worker.route("shop", "apns").in_flight(9)
        labels = {**PROMOTIONAL, "outcome": "rejected", "reason": "BadTopic"}
        assert value(worker, "carillon_outcomes_total", **labels) == expected
        worker.close()


def test_a_killed_worker_leaves_its_counts(tmp_path: Path) -> None:
    """kill -9 loses nothing of what was counted, and frees the slot."""
    program = (
        "import os, signal, sys; from pathlib import Path; from gateway.observe.metrics import Metrics\n"
        "from gateway.model import Lane\n"
        f"m = Metrics(Path(sys.argv[1]), 'worker-1', {ROUTES!r})\n"
        "m.lane('shop', 'apns', Lane.PROMOTIONAL).retried(42); m.route('shop', 'apns').in_flight(7)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=30)
    ours = Metrics(tmp_path, "worker-0", ROUTES)
    assert value(ours, "carillon_retries_total", **PROMOTIONAL) == 42
    assert value(ours, "carillon_in_flight", app="shop", provider="apns") == 0
    ours.close()


def test_reasons_are_bounded(metrics: Metrics) -> None:
    """A service cannot fill the metrics with words: after some dozens, or with odd ones, it is `other`."""
    lane = metrics.lane("shop", "apns", Lane.PROMOTIONAL)
    for number in range(500):
        lane.outcome(Verdict.REJECTED, f"Reason{number}")
    lane.outcome(Verdict.UNAVAILABLE, 'odd "words"\n')
    shown = [dict(labels) for name, labels in samples(metrics) if name == "carillon_outcomes_total"]
    ours = [labels for labels in shown if labels["provider"] == "apns" and labels["class"] == "promotional"]
    assert len([labels for labels in ours if labels["outcome"] == "rejected"]) <= 33
    total = sum(
        count
        for (name, labels), count in samples(metrics).items()
        if name == "carillon_outcomes_total" and ("outcome", "rejected") in labels
    )
    assert total == 500
    other = {**PROMOTIONAL, "outcome": "unavailable", "reason": "other"}
    assert value(metrics, "carillon_outcomes_total", **other) == 1


def test_what_is_not_configured_has_one_label(metrics: Metrics) -> None:
    """A provider's name out of a request never becomes a label."""
    metrics.lane("shop", "nonsense", Lane.TRANSACTIONAL).recipients(0, 3)
    metrics.route("gone", "apns").invalid_tokens(1)
    labels = {"app": UNCONFIGURED, "provider": UNCONFIGURED}
    assert value(metrics, "carillon_recipients_total", **labels, class_="transactional", result="refused") == 3
    assert value(metrics, "carillon_invalid_tokens_total", **labels) == 1


@given(st.lists(st.integers(min_value=1, max_value=100_000_000), max_size=200))
def test_a_column_is_bucketed_as_single_values_would_be(
    tmp_path_factory: pytest.TempPathFactory, column: list[int]
) -> None:
    """`observe_many` counts each value in the first bucket whose bound is not below it, and sums in seconds."""
    folder = tmp_path_factory.mktemp("metrics")
    metrics = Metrics(folder, "worker-0", ROUTES)
    metrics.lane("shop", "apns", Lane.PROMOTIONAL).answers.observe_many(array("I", [*column, 0, 0]))
    series = next(cells.read(folder)).series[LATENCY.name, "shop", "apns", "promotional"]
    metrics.close()
    expected = [0] * (len(LATENCY.bounds) + 1)
    for milliseconds in column:
        expected[bisect_left(LATENCY.bounds, milliseconds / 1000)] += 1
    assert series[:-1] == expected
    assert series[-1] == pytest.approx(sum(column) / 1000)


def test_observe_agrees_with_observe_many(tmp_path: Path) -> None:
    """One value counted several times is a column of it, on a bucket's very bound too."""
    metrics = Metrics(tmp_path, "worker-0", ROUTES)
    metrics.lane("shop", "apns", Lane.PROMOTIONAL).answers.observe(0.25, 3)
    metrics.lane("shop", "fcm", Lane.PROMOTIONAL).answers.observe_many([250, 250, 250])
    series = next(cells.read(tmp_path)).series
    metrics.close()
    assert series[LATENCY.name, "shop", "apns", "promotional"] == series[LATENCY.name, "shop", "fcm", "promotional"]


def test_two_gateways_cannot_share_a_folder(tmp_path: Path) -> None:
    """A living holder keeps its slot, and the refusal says what to do."""
    first = Metrics(tmp_path, "worker-0", ROUTES)
    with pytest.raises(SlotTaken, match=r"another gateway is running on .*queue\.path"):
        Metrics(tmp_path, "worker-0", ROUTES)
    with pytest.raises(SlotTaken):
        clear(tmp_path)
    first.close()
    clear(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_supervisor_counts_restarts_and_is_no_worker(tmp_path: Path) -> None:
    """Its counter is in every worker's answer; it does not count among the workers."""
    parent, ours = Metrics(tmp_path, SUPERVISOR), Metrics(tmp_path, "worker-0", ROUTES)
    parent.worker_restarted()
    assert value(ours, "carillon_worker_restarts_total") == 1
    assert value(ours, "carillon_workers") == 1
    parent.close()
    ours.close()


def test_cells_grow_and_stay_where_they_are(tmp_path: Path) -> None:
    """Beyond the mapped room new cells begin at zero, and old ones keep their numbers."""
    held = Cells(tmp_path, "a")
    (first,) = held.add([(("first",), 1)])
    held.values[first] = 7
    starts = held.add([((f"series{number}",), 20) for number in range(1000)])
    held.values[starts[-1] + 19] = 3
    (slot,) = cells.read(tmp_path)
    assert slot.series["first",] == [7]
    assert slot.series["series999",] == [0] * 19 + [3]
    held.close()


def test_a_torn_line_is_forgotten(tmp_path: Path) -> None:
    """A process killed while it announced a series leaves a file that its successor repairs."""
    held = Cells(tmp_path, "a")
    held.add([(("first",), 1)])
    held.close()
    with (tmp_path / "a.keys").open("ab") as keys:
        keys.write(b'[1,"sec')
    assert [list(slot.series) for slot in cells.read(tmp_path)] == [[("first",)]]
    held = Cells(tmp_path, "a")
    held.add([(("second",), 1)])
    assert [list(slot.series) for slot in cells.read(tmp_path)] == [[("first",), ("second",)]]
    held.close()


def test_on_a_full_disk_a_new_word_goes_uncounted(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's work fails because there is no room for a new series; known series count on."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Cells, "_append", full)
    lane = metrics.lane("shop", "apns", Lane.PROMOTIONAL)
    lane.outcome(Verdict.REJECTED, "NeverSeen")
    lane.outcome(Verdict.REJECTED, count=2)
    assert value(metrics, "carillon_outcomes_total", **PROMOTIONAL, outcome="rejected", reason="") == 2
    assert value(metrics, "carillon_outcomes_total", **PROMOTIONAL, outcome="rejected", reason="NeverSeen") is None
