"""What systemd is told, through a socket as it listens on one."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.supervisor import Supervisor
from gateway.systemd import notify
from tests.gateway.test_supervisor import FAILING, OBEDIENT, Stage, running


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


def heard(manager: socket.socket) -> list[str]:
    said = []
    while True:
        try:
            said.append(manager.recv(4096).decode())
        except BlockingIOError:
            return said


def test_lines_go_in_one_datagram(manager: socket.socket) -> None:
    notify("READY=1", "STATUS=Serving")
    assert heard(manager) == ["READY=1\nSTATUS=Serving"]


def test_an_abstract_address_begins_with_an_at_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"carillon-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        notify("WATCHDOG=1")
        assert listening.recv(4096) == b"WATCHDOG=1"


def test_nobody_is_waited_for(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that does not read, one that is gone, and none at all cost the gateway nothing."""
    for _ in range(2_000):
        notify("WATCHDOG=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/notify")
    notify("WATCHDOG=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("WATCHDOG=1")


async def test_a_gateway_says_when_it_serves_lives_reloads_and_stops(tmp_path: Path, manager: socket.socket) -> None:
    """Ready with its first worker, alive again and again, ready again after a reload, refused or not."""
    stage, said = Stage(tmp_path, OBEDIENT), []

    async def until(word: str) -> None:
        async with asyncio.timeout(20):
            while not any(line.startswith(word) or f"\n{word}" in line for line in said):
                said.extend(heard(manager))
                await asyncio.sleep(0.01)

    problems = ["[http]\n  port: wrong", None]
    supervisor = Supervisor(stage.command, 2, renew=lambda: problems.pop(0), silence=3, tell=notify)
    async with running(supervisor) as task:
        await until("READY=1")
        await until("WATCHDOG=1")
        assert set(said) == {"READY=1", "WATCHDOG=1"}
        said.clear()
        os.kill(os.getpid(), signal.SIGHUP)
        await until("STATUS=Reload refused: [http] port: wrong")
        os.kill(os.getpid(), signal.SIGHUP)
        await until("STATUS=Reloaded 2 workers")
        told = [line.partition("\n")[0] for line in said if line != "WATCHDOG=1"]
        assert told == ["RELOADING=1", "READY=1"] * 2
        supervisor.stop(signal.SIGTERM)
        assert await asyncio.wait_for(task, 20) == 0
    assert "STOPPING=1" in heard(manager)


async def test_a_gateway_that_cannot_be_started_is_never_ready(tmp_path: Path, manager: socket.socket) -> None:
    supervisor = Supervisor(Stage(tmp_path, FAILING).command, 1, first_delay=0.001, tell=notify)
    async with running(supervisor) as task:
        assert await asyncio.wait_for(task, 30) == 78
    assert set(heard(manager)) - {"WATCHDOG=1"} == {"STOPPING=1"}
