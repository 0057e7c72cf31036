"""What a person types, against a running gateway and the simulator of the smallest provider."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from bench.world import World


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(["stub", "apns"], mode="quick") as world:
        yield world


def carillon(world: World, *arguments: str, status: int = 0) -> Any:
    """The command's JSON, with the key that lies in the gateway's data folder."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"CARILLON_CONFIG": str(world.folder / "carillon.toml")},
    )
    assert done.returncode == status, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_notification_by_hand_is_answered_by_the_service(world: World) -> None:
    """A provider that was added by copying one folder goes the whole road like any other."""
    arguments = ("--app", "shop", "--provider", "stub", "--token", "device-1", "--title", "Hello", "--wait")
    (answer,) = carillon(world, "send", *arguments, "--url", world.url)[-1:]
    assert answer["state"] == "accepted"


def test_a_dead_target_is_told_and_remembered(world: World) -> None:
    """The second send does not touch the wire: the service has seen the target once. Believed is a service that has
    accepted something before."""
    alive = ("--app", "shop", "--provider", "stub", "--token", "device-2", "--title", "Hello", "--wait")
    carillon(world, "send", *alive, "--url", world.url)
    arguments = ("--app", "shop", "--provider", "stub", "--token", "unreg-1", "--title", "Hello", "--wait")
    for _ in range(2):
        (answer,) = carillon(world, "send", *arguments, "--url", world.url, status=1)[-1:]
        assert answer["state"] == "invalid_token"
    seen = [line.split(" ") for line in world.control("GET", "ledger?service=stub").decode().splitlines()]
    assert sum(int(times) for key, times, accepted in seen if not int(accepted)) == 1


def test_the_receipts_of_a_job_can_be_read_by_its_id(world: World) -> None:
    arguments = ("--app", "shop", "--provider", "apns", "--token", "ab" * 32, "--title", "Hello", "--wait")
    (answer,) = carillon(world, "send", *arguments, "--url", world.url)[-1:]
    (receipt,) = carillon(world, "receipts", answer["job"], "--url", world.url)
    assert (receipt["state"], receipt["provider"], receipt["id"]) == ("accepted", "apns", answer["id"])


def test_a_backup_of_a_running_gateway(world: World) -> None:
    """It is the owner's alone, holds what was taken, and a second one does not replace it."""
    arguments = ("--app", "shop", "--provider", "stub", "--token", "device-2", "--title", "Hello", "--wait")
    carillon(world, "send", *arguments, "--url", world.url)
    copy = world.folder / "copy.db"
    command = ("backup", str(copy), "--config", str(world.folder / "carillon.toml"))
    (report,) = carillon(world, *command)
    assert report["jobs"] >= 1
    assert report["bytes"] == copy.stat().st_size
    assert copy.stat().st_mode & 0o777 == 0o600
    carillon(world, *command, status=2)


def test_doctor_finds_nothing_wrong_with_a_working_configuration(world: World) -> None:
    """Port and queue are in use by the running gateway, which is not a fault."""
    (report,) = carillon(world, "doctor", "--config", str(world.folder / "carillon.toml"))
    assert report["ok"]
    assert {"endpoint", "credential", "sqlite"} <= {finding["check"] for finding in report["findings"]}
