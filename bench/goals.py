"""What is measured for docs/performance.md: the commands, their goals, and what of a report answers to a goal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on a figure."""

    what: str
    figure: Callable[[Report], float | None]
    most: float | None = None
    least: float | None = None

    def met(self, value: float) -> bool:
        return (self.most is None or value <= self.most) and (self.least is None or value >= self.least)

    @property
    def text(self) -> str:
        bounds = [f"{sign} {bound:,g}" for sign, bound in (("≤", self.most), ("≥", self.least)) if bound is not None]
        return f"{' and '.join(bounds)} {self.what}"


@dataclass(frozen=True, slots=True)
class Run:
    """A command of `python -m bench`, and the same with less to do."""

    name: str
    title: str
    command: str
    quick: str
    goals: Sequence[Goal] = ()


def _at(*path: str) -> Callable[[Report], float | None]:
    def figure(report: Report) -> float | None:
        value: Any = report
        for key in path:
            value = value.get(key, {})
        return value if isinstance(value, int | float) else None

    return figure


def _median(name: str) -> Callable[[Report], float | None]:
    """A figure's median over repetitions, or the figure of the only one."""
    repeated, single = _at("spread", name, "median"), _at(name)
    return lambda report: repeated(report) if "spread" in report else single(report)


def _row(what: str, peer: str, figure: str) -> Callable[[Report], float | None]:
    """Of `compare`: a peer's figure."""

    def found(report: Report) -> float | None:
        rows = [row for row in report["rows"] if row["peer"] == peer and row["what"] == what and row["complete"]]
        return rows[0][figure] if rows else None

    return found


def _us(most: float) -> Goal:
    return Goal("us of CPU", _median("gateway_cpu_us"), most=most)


def _rate(least: float) -> Goal:
    return Goal("a second", _median("per_second"), least=least)


RUNS = (
    Run(
        "wire",
        "the HTTP/2 client alone: ready-made requests in, outcomes out",
        "wire --count 1000000 --repeat 5",
        "wire --count 100000",
        (_us(2.5),),
    ),
    Run(
        "apns",
        "APNs: HTTP accept to stored receipt, `synchronous=FULL`",
        "throughput --provider apns --count 600000 --repeat 5",
        "throughput --provider apns --count 60000",
        (_us(8), _rate(125_000)),
    ),
    Run(
        "apple",
        "the same with the service's manners: 40 ms, one-stream start, windows of 65,535 bytes, 30 connections",
        "throughput --provider apns --profile apple --count 600000 --repeat 3",
        "throughput --provider apns --profile apple --count 60000",
        (_us(10),),
    ),
    Run(
        "nginx",
        "APNs again, with Debian's nginx answering",
        "throughput --provider apns --sink nginx --count 300000 --repeat 3",
        "throughput --provider apns --sink nginx --count 60000",
    ),
    Run(
        "pushy",
        "APNs again, with pushy's benchmark server answering",
        "throughput --provider apns --sink pushy --count 300000 --repeat 3",
        "throughput --provider apns --sink pushy --count 60000",
    ),
    Run(
        "fcm",
        "FCM: 100 streams a connection, a message name kept for each",
        "throughput --provider fcm --count 300000 --repeat 5",
        "throughput --provider fcm --count 60000",
        (_us(12),),
    ),
    Run(
        "webpush",
        "Web Push: RFC 8291 and VAPID, distinct subscriptions, 4 origins",
        "throughput --provider webpush --count 60000 --repeat 3",
        "throughput --provider webpush --count 5000",
        (_us(110), _rate(9000), Goal("× OpenSSL's ECDH and key generation alone", _median("ratio"), most=1.6)),
    ),
    Run(
        "errors",
        "APNs with 5 % dead, 5 % throttled, 2 % unavailable",
        "throughput --provider apns --errors --count 300000 --repeat 3",
        "throughput --provider apns --errors --count 60000",
        (Goal("× the clean campaign", _median("ratio"), most=1.3),),
    ),
    Run(
        "ingest",
        "recipients as NDJSON in one request, until they are durable",
        "ingest --count 1000000",
        "ingest --count 100000",
        (Goal("us of CPU", _at("gateway_cpu_us"), most=2.5),),
    ),
    Run(
        "latency",
        "transactional, open loop, 200 a second, on an idle gateway: due to bytes on the wire",
        "latency --seconds 30",
        "latency --seconds 3",
        (
            Goal("ms p50", _at("latency_ms", "p50"), most=2),
            Goal("ms p99", _at("latency_ms", "p99"), most=5),
        ),
    ),
    Run(
        "blast",
        "the same while a promotional job of 1,000,000 is sent by the same worker",
        "latency --blast 1000000",
        "latency --blast 100000",
        (
            Goal("ms p99", _at("latency_ms", "p99"), most=20),
            Goal("of its rate lost by the blast", _at("blast_loss"), most=0.05),
        ),
    ),
    Run(
        "depth",
        "10,000,000 recipients queued against 10,000",
        "scale --depth --deep 10000000",
        "scale --depth --deep 200000 --count 50000",
        (
            Goal("× the cost", _at("ratio"), most=1.1),
            Goal("MiB resident", _at("rss_mib", "gateway"), most=150),
        ),
    ),
    Run(
        "connections",
        "256 connections against 1, all in use",
        "scale --connections",
        "scale --connections --most 16 --count 50000",
        (Goal("× the cost", _at("ratio"), most=1.2),),
    ),
    Run(
        "workers",
        "2 workers against 1",
        "scale --workers --count 600000",
        "scale --workers --count 60000",
        (Goal("× the cost", _at("ratio"), most=1.1),),
    ),
    Run(
        "kafka",
        "APNs with Apache Kafka as the queue: HTTP accept to receipts read off the topic, against the embedded queue",
        "throughput --queue kafka --count 300000 --repeat 3",
        "throughput --queue kafka --count 40000",
        (Goal("× the embedded queue", _median("ratio"), most=1.25),),
    ),
    Run(
        "group",
        "two gateways of one group on two processors, against one",
        "throughput --queue kafka --gateways 2 --count 300000 --repeat 3",
        "throughput --queue kafka --gateways 2 --count 40000",
        (Goal("× one gateway", _median("ratio"), most=1.1),),
    ),
    Run(
        "compare",
        "other people's clients, in the same run, same sink, same payload",
        "compare",
        "compare --count 30000 --repeat 1",
        (
            Goal("× our wire: pushy's send", _row("send only", "pushy", "ratio_to_wire"), least=3),
            Goal("× our wire: aioapns's send", _row("send only", "aioapns", "ratio_to_wire"), least=100),
            Goal("× our whole path: pushy's send", _row("send only", "pushy", "ratio_to_whole_path"), least=1),
        ),
    ),
)
