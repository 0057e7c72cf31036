"""What the code under simulation takes from its surroundings: clocks, chance, threads, and what is slow to build."""

from __future__ import annotations

import functools
import os
import random
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import structlog
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway import app
from gateway.dispatch import dispatcher, turns
from gateway.ingest import batching
from gateway.queue import database, dead, writer
from providers.fcm import auth as fcm_auth
from tests.simulation.machine import Machine
from tests.simulation.worker import THREADING, Disk, SteppedWriter

TICK = 0.9
POLL = 2.7
RECOVERY = 10.0
"""Seconds between looks, many times what they are: minutes have to pass in a fraction of a second."""

BATCH_SIZE = 8
"""So that a job of some dozens has several batches."""


ROUND = 0.01
SHORT_ROUND = 0.004
"""Slices of an app in a round of the loop, some deliveries, so that its turn is over sometimes."""

_private_key = functools.cache(load_pem_private_key)
"""An RSA key is checked for 30 ms whenever it is read."""


def _hash(key: bytes) -> int:
    """Python's own is another one in each process."""
    return zlib.crc32(key) << 16 ^ zlib.adler32(key)


@contextmanager
def simulated(machine: Machine, disk: Disk, rng: random.Random) -> Iterator[list[structlog.typing.EventDict]]:
    """Everything as the seed says. Yields what is logged."""
    fixed = random.Random

    class Seeded(fixed):  # type: ignore[misc, valid-type]
        """One that nobody gave a seed to gets it from the run's."""

        def __init__(self, seed: object = None) -> None:
            super().__init__(rng.getrandbits(64) if seed is None else seed)

    with pytest.MonkeyPatch.context() as patch, structlog.testing.capture_logs() as logs:
        patch.setattr(time, "time", machine.wall)
        patch.setattr(time, "monotonic", lambda: machine.now)
        patch.setattr(time, "clock_gettime", lambda clock: machine.now)
        patch.setattr(os, "urandom", rng.randbytes)
        patch.setattr(random, "_urandom", rng.randbytes)
        patch.setattr(random, "uniform", rng.uniform)
        patch.setattr(random, "Random", Seeded)
        patch.setattr(writer, "threading", THREADING)
        patch.setattr(dead, "hash", _hash, raising=False)
        patch.setattr(database, "Writer", SteppedWriter)
        patch.setattr(SteppedWriter, "disk", disk, raising=False)
        patch.setattr(SteppedWriter, "rng", rng, raising=False)
        patch.setattr(fcm_auth, "load_pem_private_key", _private_key)
        patch.setattr(dispatcher, "tls_context", lambda *_: None)
        patch.setattr(dispatcher, "TICK", TICK)
        patch.setattr(dispatcher, "POLL", POLL)
        patch.setattr(app, "RECOVERY_INTERVAL", RECOVERY)
        patch.setattr(batching, "BATCH_SIZE", BATCH_SIZE)
        patch.setattr(turns, "ROUND", ROUND)
        patch.setattr(turns, "SHORT_ROUND", SHORT_ROUND)
        yield logs
