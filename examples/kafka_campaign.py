"""Runs a campaign through Kafka alone: writes a job into the topic, and reads its receipts off another.

    python examples/kafka_campaign.py localhost:9092 job.json

`job.json` is what `POST /v1/jobs` takes (docs/schemas/job.schema.json); docs/kafka.md has the rest. It needs aiokafka
and nothing of the gateway.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

PREFIX = "carillon"


async def main(servers: str, job: bytes) -> None:
    wanted = {recipient["id"] for recipient in json.loads(job)["recipients"]}
    reader = AIOKafkaConsumer(f"{PREFIX}.receipts", bootstrap_servers=servers, auto_offset_reset="latest")
    await reader.start()
    await reader.seek_to_end()  # before the job is written, so that nothing of it is missed
    try:
        place = await submit(servers, job)
        print(f"The job is record {place}.")
        await read(reader, place, wanted)
    finally:
        await reader.stop()


async def submit(servers: str, job: bytes) -> str:
    """Write the job; it is stored when this returns."""
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        stored = await producer.send_and_wait(
            f"{PREFIX}.jobs",
            job,
            headers=[("content-type", b"application/json"), ("idempotency-key", uuid.uuid4().hex.encode())],
        )
    finally:
        await producer.stop()
    return f"{stored.topic}/{stored.partition}/{stored.offset}"


async def read(reader: AIOKafkaConsumer, place: str, wanted: set[str]) -> None:
    """Print a line for each receipt of the job, until all are there."""
    job_id, early = None, []
    seen: set[str] = set()  # a delivery may be told of twice; the first time counts
    async for record in reader:
        headers = {name: value.decode() for name, value in record.headers}
        event = json.loads(record.value)
        if headers["ce_type"] == "carillon.job.accepted" and headers["ce_source"].endswith(place):
            job_id = event["job"]
            wanted -= {refusal["id"] for refusal in event["refused"]}
        elif headers["ce_type"] == "carillon.receipts":
            early.append(event)
        for told in [event for event in early if event["job"] == job_id]:
            early.remove(told)
            for receipt in receipts(told):
                if receipt["id"] not in seen:
                    seen.add(receipt["id"])
                    wanted.discard(receipt["recipient"])
                    print(json.dumps(receipt), flush=True)
        if job_id is not None and not wanted:
            return


def receipts(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What an event of many deliveries says of each: columns, and what is different about some."""
    exceptions = event.get("exceptions", {})
    for place, recipient in enumerate(event["recipients"]):
        index = event["indexes"][place] if "indexes" in event else place
        at = event["created_at"] + event["milliseconds"][place] / 1000
        receipt = {"id": f"{event['delivery']}{index:04x}", "recipient": recipient, "state": event["state"], "at": at}
        yield receipt | exceptions.get(str(place), {})


if __name__ == "__main__":
    if len(sys.argv) == 4:
        PREFIX = sys.argv[3]
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_bytes()))
