"""Requests generated from the OpenAPI document of a worker that has jobs, receipts and parked batches."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bench.campaign import job, recipients
from bench.world import World
from gateway.model import INDEX_DIGITS, delivery_prefix
from gateway.queue.sqlite import SqliteQueue
from tests.gateway.queue.samples import batch, room
from tests.gateway.queue.samples import job as sample
from tests.gateway.queue.test_machine import die

from .conftest import Evidence

ROW = "R20"
HERE = Path(__file__).parent
SERVICES = ("apns", "fcm", "webpush")
PARKED = 8
EXAMPLES = {False: 18, True: 700}
"""Of each operation, in the phases that have no number of their own."""
PHASES = ("examples", "coverage", "fuzzing", "stateful")


async def park(path: Path) -> list[str]:
    """Batches that holder after holder died with, as a worker finds them when it starts: ids of jobs and deliveries."""
    found = []
    path.parent.mkdir()
    queue = SqliteQueue(path, owner="operator")
    await queue.open()
    for _ in range(PARKED):
        stored, new = sample(created_at=time.time()), batch(3)
        await queue.submit(stored, None, [new], b"{}")
        for _ in range(3):
            holder = SqliteQueue(path, owner="holder")
            await holder.open()
            (lease,) = await holder.lease(room(), time.time())
            lease.at_work[0] = True
            await die(holder)
            await queue.recover(time.time())
        found += [stored.id, delivery_prefix(new.id) + INDEX_DIGITS[1].decode()]
    await queue.close()
    return found


async def work(world: World) -> list[str]:
    """Jobs that are done, and one that waits: ids of jobs and deliveries."""
    found = []
    async with aiohttp.ClientSession() as session:
        api = world.api(session)
        for service in SERVICES:
            answer = await api.submit([job() + b"\n", *_members(world, service, 20)])
            while not (await api.job(answer["job"]))["finished"]:
                await asyncio.sleep(0.05)
            found += [answer["job"], *[receipt["id"] async for receipt in api.receipts(answer["job"])][:2]]
        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        found.append((await api.submit([job(deliver_at=later) + b"\n", *_members(world, "apns", 20)]))["job"])
    return found


async def own_key(world: World) -> str:
    """The id of the key that everything is asked with."""
    async with (
        aiohttp.ClientSession(headers=world.credential) as session,
        session.get(f"{world.url}/v1/keys") as response,
    ):
        return str((await response.json())["keys"][0]["id"])


def generate(world: World, ids: list[str], examples: int, seed: int, folder: Path) -> dict[str, Any]:
    """Run all phases, `examples` of each operation where it is for us to say; Schemathesis' own report."""
    known = {
        "ids": ids,
        "recipients": [json.loads(_members(world, service, 1)[0]) for service in SERVICES],
        "own": [asyncio.run(own_key(world))],
    }
    report = folder / "report.json"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "run"]
    command += [f"{world.url}/openapi.json", "--phases", ",".join(PHASES), "--max-examples", str(examples)]
    command += ["--seed", str(seed), "--generation-database", "none", "--no-color", "--continue-on-failure"]
    command += [
        "--suppress-health-check",
        "all",
        "--no-shrink",
    ]  # they are about generating: how long it takes on a busy machine
    command += ["--report", "json", "--report-json-path", str(report)]
    environment = os.environ | {
        "PYTHONPATH": str(HERE.parent.parent),
        "SCHEMATHESIS_HOOKS": "tests.reliability.api_hooks",
        "CARILLON_KNOWN": json.dumps(known),
        "CARILLON_KEY": world.key or "",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert report.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(report.read_text())
    found["told"] = done.stdout
    return found


def _members(world: World, service: str, count: int) -> list[bytes]:
    return recipients(service, count, endpoints=world.ready["services"][service]["endpoints"]).lines


@pytest.mark.timeout(1200)
def test_every_answer_is_as_described(long: bool, seed: int, evidence: Evidence, tmp_path: Path) -> None:
    """Whatever is asked, meant or not: an answer that the document names, in the form that it names, none of 5xx; what
    breaks the document is refused, and what keeps to it is done or refused for a reason that no schema can tell."""
    ids = asyncio.run(park(tmp_path / "queue/carillon.db"))
    with World(SERVICES, mode="quick", folder=tmp_path) as world:
        ids += asyncio.run(work(world))
        found = generate(world, ids, EXAMPLES[long], seed, tmp_path)
        log = world.gateway.log.read_text()
        assert world.gateway.running
    cases, answers = found["test_cases"], Counter[str]()
    for phases in found["valid_rates"].values():
        for counts in phases.values():
            answers.update(counts)
    figures = {
        "seed": seed,
        "requests": cases["generated"],
        "operations": found["operations"]["tested"],
        "failures": cases["unique_failures"],
        "answers_to_those_that_keep_to_the_document": dict(answers),
    }
    evidence.record(f"{cases['generated']:,} requests in the phases {', '.join(PHASES)}", figures)
    assert found["complete"], found["told"]
    phases = {name: phase["status"] for name, phase in found["phases"].items()}
    assert phases == dict.fromkeys(PHASES, "success"), found["told"]
    for event in ("http.failed", "worker.failed", "batch.crashed"):
        assert event not in log, log[-3000:]
