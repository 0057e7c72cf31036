"""How much a tenant may ask for, and that the others do not notice."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.backlog import INTERVAL, Backlog
from gateway.access.rates import LONGEST_DEBT, Exceeded, Rates, clear
from gateway.access.settings import Quota
from tests.gateway.access.house import house, settings


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


ROUNDING = 1e-3
"""Jobs that floating-point sums may let in too early."""


def taken(rates: Rates, tenant: str, asked: int) -> int:
    """How many of so many jobs are let in, right now."""
    number = 0
    for _ in range(asked):
        try:
            rates.take_job(tenant)
        except Exceeded:
            continue
        number += 1
    return number


@given(rate=st.floats(0.05, 400), waits=st.lists(st.floats(0.01, 3), min_size=1, max_size=12))
def test_as_many_as_its_rate(tmp_path_factory: pytest.TempPathFactory, rate: float, waits: list[float]) -> None:
    """A second's worth at once, at least one job, and then what time brings: never more, and less by one at most."""
    clock = Clock()
    rates = Rates(tmp_path_factory.mktemp("r"), {"acme": Quota(jobs_per_second=rate)}, clock)
    burst = max(1.0, rate)
    number = taken(rates, "acme", 500)
    assert burst - 1 < number <= burst + ROUNDING
    lost = 0.0
    for wait in waits:
        clock.now += wait
        lost += max(0.0, 1 + wait * rate - burst)  # an allowance that is full grows no further
        number += taken(rates, "acme", 500)
        most = burst + (clock.now - 5000.0) * rate
        assert most - lost - 2 < number <= most + ROUNDING


def test_who_has_to_wait_is_told_how_long(tmp_path: Path) -> None:
    """After so many seconds the next one is let in."""
    clock = Clock()
    rates = Rates(tmp_path, {"acme": Quota(jobs_per_second=0.2)}, clock)
    rates.take_job("acme")
    with pytest.raises(Exceeded) as refused:
        rates.take_job("acme")
    assert refused.value.retry_after == 5
    assert refused.value.headers == {"RateLimit-Policy": '"jobs";q=1;w=5', "RateLimit": '"jobs";r=0;t=5'}
    clock.now += refused.value.retry_after
    rates.take_job("acme")


def test_recipients_are_paid_for_afterwards(tmp_path: Path) -> None:
    """A job of any size is taken; the next ones wait until it is paid off, an hour at most."""
    clock = Clock()
    rates = Rates(tmp_path, {"acme": Quota(recipients_per_second=1000)}, clock)
    rates.take_job("acme")
    rates.take_recipients("acme", 10_000)
    with pytest.raises(Exceeded) as refused:
        rates.take_job("acme")
    assert refused.value.retry_after == 10
    clock.now += 10
    rates.take_job("acme")
    rates.take_recipients("acme", 10**9)
    clock.now += LONGEST_DEBT
    rates.take_job("acme")


def test_workers_share_one_count(tmp_path: Path) -> None:
    """Also those that come later; another tenant's is another, and who has no limit is not counted."""
    clock, ten = Clock(), Quota(jobs_per_second=10)
    quotas = {"acme": ten, "globex": ten, "free": Quota()}
    workers = [Rates(tmp_path, quotas, clock) for _ in range(3)]
    assert sum(taken(worker, "acme", 10) for worker in workers) == 10
    assert taken(Rates(tmp_path, quotas, clock), "acme", 10) == 0
    assert taken(workers[1], "globex", 100) == 10
    assert taken(workers[1], "free", 1000) == taken(workers[1], "unheard-of", 1000) == 1000
    assert workers[1].headers("free") == {}
    clear(tmp_path)
    assert taken(Rates(tmp_path, quotas, clock), "acme", 100) == 10


async def test_a_share_of_the_queue(tmp_path: Path) -> None:
    """What was taken in counts at once, and what was sent as soon as the queue is asked again."""
    queued = {"acme/shop": 60, "acme/news": 30, "shop": 1000}
    asked = 0

    async def count() -> Mapping[str, int]:
        nonlocal asked
        asked += 1
        return dict(queued)

    backlog = Backlog({"acme": Quota(queued=100), "default": Quota()}, count)
    await backlog.check("acme")
    backlog.add("acme", 9)
    await backlog.check("acme")
    backlog.add("acme", 1)
    with pytest.raises(Exceeded, match="100 deliveries"):
        await backlog.check("acme")
    await backlog.check("default")
    assert asked == 1
    backlog._asked -= INTERVAL
    await backlog.check("acme")
    assert asked == 2


JOB: dict[str, Any] = {
    "app": "shop",
    "class": "promotional",
    "message": {"title": "t"},
    "recipients": [{"id": f"u{n}", "provider": "stub", "token": f"t{n}"} for n in range(5)],
}


async def test_a_tenant_beyond_its_rate_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    """429 with what is left and when to come back; documents and streams alike."""
    configured = settings({"acme": {"jobs_per_second": 2}, "globex": {}}, tmp_path / "q.db")
    async with (
        house(configured) as gateway,
        gateway.caller(await gateway.key("acme")) as acme,
        gateway.caller(await gateway.key("globex")) as globex,
    ):
        answers = []
        for number in range(4):
            async with acme.post("/v1/jobs", json=JOB) as response:
                answers.append((response.status, response.headers.get("RateLimit", "")))
                if number == 3:
                    assert response.headers["Retry-After"] == "1"
                    assert response.headers["RateLimit-Policy"] == '"jobs";q=2;w=1'
                    assert response.content_type == "application/problem+json"
        assert [each[0] for each in answers] == [202, 202, 429, 429]
        assert answers[0][1].startswith('"jobs";r=1')
        for _ in range(4):
            async with globex.post("/v1/jobs", json=JOB) as response:
                assert response.status == 202
                assert "RateLimit" not in response.headers


async def test_a_tenant_beyond_its_share_of_the_queue(tmp_path: Path) -> None:
    """Counted in deliveries, over all its apps; waiting, leased, scheduled and those behind others."""
    configured = settings({"acme": {"queued": 14}}, tmp_path / "q.db")
    async with house(configured) as gateway, gateway.caller(await gateway.key("acme")) as acme:
        for expected in (202, 202, 202, 429):
            async with acme.post("/v1/jobs", json=JOB | {"ordering_key": "k"}) as response:
                assert response.status == expected
        await asyncio.sleep(0)
        assert await gateway.queue.backlog() == {"acme/shop": 15}
        key = await gateway.key("default")
        async with gateway.caller(key) as default, default.post("/v1/jobs", json=JOB) as response:
            assert response.status == 202
