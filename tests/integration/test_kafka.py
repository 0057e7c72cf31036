"""A gateway on a real Kafka, asked by clients that know nothing of it but docs/kafka.md."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.campaign import job, recipients
from bench.kafka.group import Group
from bench.processes import Missing
from gateway.ingest.openapi import job_schema

ROOT = Path(__file__).parents[2]
COUNT = 1_200


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """One gateway in a group of its own."""
    try:
        group = Group(tmp_path_factory.mktemp("group"), ["apns"], mode="quick", partitions=3)
    except Missing as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"NO TEST OF KAFKA IS RUN HERE: {missing}")
    with group:
        group.start(0)
        group.await_group([0])
        yield group


def document(count: int, seed: int, **fields: Any) -> bytes:
    """A job as one JSON document."""
    lines = recipients("apns", count, seed=seed).lines
    return json.dumps({**json.loads(job(**fields)), "recipients": [json.loads(line) for line in lines]}).encode()


async def written(group: Group, value: bytes, **headers: str) -> str:
    """Put a record into the topic of jobs as anybody would; where it is."""
    producer = AIOKafkaProducer(bootstrap_servers=group.brokers.servers)
    await producer.start()
    try:
        pairs = [(name.replace("_", "-"), text.encode()) for name, text in headers.items()]
        stored = await producer.send_and_wait(f"{group.prefix}.jobs", value, headers=pairs)
    finally:
        await producer.stop()
    return f"{stored.topic}/{stored.partition}/{stored.offset}"


async def read(group: Group, topic: str, enough: Any) -> list[Any]:
    """All records of a topic, until `enough` says so of them."""
    reader = AIOKafkaConsumer(
        f"{group.prefix}.{topic}", bootstrap_servers=group.brokers.servers, auto_offset_reset="earliest"
    )
    await reader.start()
    records: list[Any] = []
    try:
        async with asyncio.timeout(30):
            while not enough(records):
                for found in (await reader.getmany(timeout_ms=200)).values():
                    records += found
    finally:
        await reader.stop()
    return records


def test_the_example_runs_a_campaign(group: Group, tmp_path: Path) -> None:
    """A plain producer and a plain consumer are enough: a job goes in, a receipt for each recipient comes out."""
    (tmp_path / "job.json").write_bytes(document(COUNT, 1))
    command = [sys.executable, str(ROOT / "examples/kafka_campaign.py"), group.brokers.servers[0]]
    done = subprocess.run(
        [*command, str(tmp_path / "job.json"), group.prefix], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()[1:]]
    assert {each["recipient"] for each in told} == {f"apns-1-{number}" for number in range(COUNT)}
    assert {each["state"] for each in told} == {"accepted"}
    assert len({each["id"] for each in told}) == COUNT


async def test_a_record_that_is_no_job_is_a_dead_letter(group: Group) -> None:
    """Malformed, wrong, of a tenant that there is not, and of another type: kept with the reason, and replayed."""
    places = {
        await written(group, b"{"): "JSON",
        await written(group, b'{"app": "shop"}'): "class",
        await written(group, document(1, 2), tenant="acme"): "app",
        await written(group, b"a,b", content_type="text/csv"): "text/csv",
        await written(group, document(1, 3), idempotency_key="a key with blanks"): "idempotency-key",
    }
    letters = await read(group, "dead-letters", lambda records: len(records) >= len(places))
    reasons = {}
    for letter in letters:
        headers = dict(letter.headers)
        reasons[headers["carillon-origin"].decode()] = headers["carillon-reason"].decode()
    assert reasons.keys() == places.keys()
    for place, word in places.items():
        assert word in reasons[place]
    listed = [json.loads(line) for line in group.carillon("dlq", "list", "--json").splitlines()]
    assert {each["from"] for each in listed} == places.keys()
    one = next(each for each in listed if "text/csv" in each["reason"])
    shown = json.loads(group.carillon("dlq", "show", one["id"], "--json"))
    assert (shown["value"], shown["headers"]["content-type"]) == ("a,b", "text/csv")
    group.carillon("dlq", "replay", one["id"])
    again = await read(group, "dead-letters", lambda records: len(records) >= len(places) + 1)
    assert [each.value for each in again].count(b"a,b") == 2


async def test_a_repeated_key_is_one_job(group: Group) -> None:
    """Over HTTP and over Kafka, an idempotency key stands for one job."""
    body = document(2, 4)
    async with aiohttp.ClientSession() as session:
        api = group.api(0, session)
        headers = {**api.credential, "Content-Type": "application/json", "Idempotency-Key": "once"}
        answers = []
        for _ in range(2):
            async with session.post(f"{api.url}/v1/jobs", data=body, headers=headers) as response:
                assert response.status == 202
                answers.append((await response.json())["job"])
    assert answers[0] == answers[1]
    place = await written(group, body, content_type="application/json", idempotency_key="once")

    def told(records: list[Any]) -> bool:
        return any(dict(each.headers)["ce_source"].decode().endswith(place) for each in records)

    records = await read(group, "receipts", told)
    accepted = [each for each in records if dict(each.headers)["ce_source"].decode().endswith(place)]
    assert json.loads(accepted[0].value)["job"] == answers[0]
    ended = [json.loads(each.value) for each in records if dict(each.headers)["ce_type"] == b"carillon.receipts"]
    assert sum(len(each["recipients"]) for each in ended if each["job"] == answers[0]) <= 2


def test_topics_are_checked(group: Group) -> None:
    """What was made is as it should be; making it once more changes nothing."""
    assert json.loads(group.carillon("topics", "check", "--json")) == {"findings": []}
    assert json.loads(group.carillon("topics", "create", "--json")) == {"created": []}
    found = {
        finding["check"]: finding["level"] for finding in json.loads(group.carillon("doctor", "--json"))["findings"]
    }
    assert (found["kafka"], found["redis"]) == ("ok", "ok")


def test_the_schema_is_the_programs() -> None:
    """docs/schemas/job.schema.json is what the gateway reads jobs by."""
    assert json.loads((ROOT / "docs/schemas/job.schema.json").read_text()) == job_schema()


async def test_without_brokers_there_is_no_202(group: Group) -> None:
    """503 with Retry-After within the deadline while they are gone; jobs are taken again when they are back."""
    async with aiohttp.ClientSession() as session:
        api = group.api(0, session)
        headers = {**api.credential, "Content-Type": "application/json"}
        await asyncio.to_thread(group.brokers.kill, 1)
        async with session.post(f"{api.url}/v1/jobs", data=document(1, 5), headers=headers) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) > 0
            assert "Kafka" in (await response.json())["detail"]
        await asyncio.to_thread(group.brokers.start, 1)
        async with asyncio.timeout(40):
            while True:
                async with session.post(f"{api.url}/v1/jobs", data=document(1, 6), headers=headers) as response:
                    if response.status == 202:
                        taken = (await response.json())["job"]
                        break
                await asyncio.sleep(0.5)

    def ended(records: list[Any]) -> bool:
        return any(taken.encode() in each.value and b"apns-6-0" in each.value for each in records)

    await read(group, "receipts", ended)
