"""Scenarios from end to end, with little to do: what they measure means nothing here, their ledgers do."""

from __future__ import annotations

import pytest

from bench import latency, nginx, scale, throughput, wire
from bench.processes import Missing
from bench.throughput import Scenario


def test_the_wire_scenario_accounts_for_every_request() -> None:
    result = wire.run(2000)
    assert result["clean"]
    assert result["ledger"]["accepted"] == 4000  # with the warm-up
    assert result["gateway_cpu_us"] > 0


def test_the_whole_path_accounts_for_every_notification_and_shows_the_median() -> None:
    result = throughput.run(Scenario("apns", 300), repeat=2)
    assert result["clean"]
    assert result["ledger"]["receipts"] == result["ledger"]["accepted"] == 600  # with the warm-up
    assert result["repeat"] == len(result["spread"]["gateway_cpu_us"]["all"]) == 2


def test_latency_is_taken_of_every_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "WARM_UP_SECONDS", 0.1)
    result = latency.run(0.5)
    assert result["clean"]
    assert result["count"] > 0  # how many of half a second's fit is the machine's affair
    assert 0 < result["accepted_ms"]["p50"] <= result["latency_ms"]["max"]


def test_a_queues_depth_is_accounted_for_in_counts() -> None:
    result = scale.by_depth(1000, 2000)
    assert result["clean"]
    assert [point["at"] for point in result["points"]] == [2000, 2000]


def test_what_is_not_installed_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nginx, "_PLACES", "")
    with pytest.raises(Missing, match="apt-get install"):
        throughput.run(Scenario("apns", 1, sink="nginx"))


@pytest.mark.parametrize(
    "wrong",
    [{"provider": "fcm", "sink": "nginx"}, {"provider": "webpush", "errors": True}, {"sink": "pushy", "errors": True}],
)
def test_combinations_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"goes with|is one of"):
        Scenario(**{"provider": "apns", "count": 1, **wrong})  # type: ignore[arg-type]
