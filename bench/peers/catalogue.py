"""Whom we compare with, and how much each is given to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.peers import building
from bench.peers.building import Builder


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer and the terms of its runs."""

    name: str
    version: str
    language: str
    folder: str
    build: Builder
    share: float
    """Of the run's count: slower peers are given fewer, so that each takes seconds."""
    warm_up: int
    """Sent before the clock starts."""
    service: Literal["apns", "fcm", "webpush"] = "apns"
    mode: Literal["fast", "quick"] = "fast"
    """Of the sink; quick where the client needs what the fast one leaves out, see `why`."""
    why: str = ""


H2LOAD = Peer("h2load", "1.52", "C", "h2load", building.installed("h2load", "nghttp2-client"), 1.0, 20_000)

PEERS = (
    Peer("pushy", "0.15.4", "Java", "pushy", building.maven, 1.0, 300_000),
    Peer("a2", "0.10.0", "Rust", "a2", building.cargo, 1.0, 20_000),
    Peer("apns2", "0.25.0", "Go", "apns2", building.go, 0.5, 10_000),
    Peer("pyreqwest", "0.15.1", "Python", "pyreqwest", building.python, 0.3, 5_000),
    Peer(
        "aioapns",
        "4.0",
        "Python",
        "aioapns",
        building.python,
        0.1,
        1_000,
        mode="quick",
        why="it finds its requests again by the apns-id of the answer",
    ),
    Peer("httpx", "0.28.1", "Python", "httpx", building.python, 0.02, 300),
    Peer("firebase-admin", "7.7.0", "Python", "firebase_admin", building.python, 0.02, 500, service="fcm"),
    Peer("web-push", "0.11.0", "Rust", "web_push", building.cargo, 0.1, 1_000, service="webpush"),
    Peer(
        "pywebpush",
        "2.5.0",
        "Python",
        "pywebpush",
        building.python,
        0.04,
        500,
        service="webpush",
        mode="quick",
        why="it speaks HTTP/1.1 only",
    ),
    H2LOAD,
)
"""In the order of their runs."""

LEFT_OUT = {"gorush": "the registry refuses its Go module (1.18.9), so no program of ours for it has ever run"}
"""Whom this comparison ought to have, and why it has not."""
