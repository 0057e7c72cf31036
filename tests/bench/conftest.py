"""Certificates and credentials once per session; simulators that are closed behind each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bench.simulators import Certificates, Credentials, Name, Options, Simulator, start

from .simulators_client import Client

Start = Callable[..., Awaitable[Simulator]]
Connect = Callable[..., Awaitable[Client]]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("simulators")


@pytest.fixture(scope="session")
def tls(folder: Path) -> Certificates:
    return Certificates.make(folder)


@pytest.fixture(scope="session")
def credentials(folder: Path) -> Credentials:
    return Credentials.make(folder)


@pytest.fixture
async def simulate(tls: Certificates, credentials: Credentials) -> AsyncIterator[Start]:
    """Starts a simulator with `Options` by keyword."""
    running: list[Simulator] = []

    async def run(service: Name, *, origins: int = 1, **options: Any) -> Simulator:
        simulator = await start(service, tls=tls, credentials=credentials, origins=origins, options=Options(**options))
        running.append(simulator)
        return simulator

    yield run
    for simulator in running:
        await simulator.close()


@pytest.fixture
async def connect(tls: Certificates) -> AsyncIterator[Connect]:
    """Connects to a simulator, or to a port."""
    clients: list[Client] = []

    async def run(where: Simulator | int, **options: Any) -> Client:
        port = where if isinstance(where, int) else where.port
        client = await Client.connect(port, tls.ca_file, **options)
        clients.append(client)
        return client

    yield run
    for client in clients:
        client.close()
