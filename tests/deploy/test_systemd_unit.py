"""The unit for systemd."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from gateway.settings import load
from gateway.supervisor import GRACE, WRONG_USE
from tests.deploy.conftest import DEPLOY, ROOT, Tool

UNIT = DEPLOY / "systemd/carillon.service"
MOST_EXPOSED = 15
"""Tenths, as `systemd-analyze security` counts: 12 of them with 252, most for being on the network."""


def options() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if match := re.match(r"^(\w+)=(.*)$", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def test_it_has_time_to_drain() -> None:
    """The gateway leaves within its grace; systemd waits longer, and kills only what is left then."""
    unit = options()
    assert int(unit["TimeoutStopSec"][0]) > GRACE
    assert unit["KillMode"] == ["mixed"]


def test_what_no_restart_cures_is_not_restarted() -> None:
    assert options()["RestartPreventExitStatus"] == [str(WRONG_USE)]


def test_the_queue_knows_a_restart_of_the_machine() -> None:
    """`ProcSubset=pid` would hide the id of the machine's run, and a reboot would pass for a crash."""
    assert "ProcSubset" not in options()


def test_its_environment_is_settings(tmp_path: Path) -> None:
    environment = dict(line.split("=", 1) for line in options()["Environment"] if line.startswith("CARILLON_"))
    settings = load(None, environment)
    assert str(settings.queue.path) == "/var/lib/carillon/carillon.db"
    assert options()["StateDirectory"] == ["carillon"]


def test_systemd_accepts_it(tmp_path: Path, tool: Callable[[str], Tool]) -> None:
    """With the program in the place where this machine has it."""
    copy = tmp_path / UNIT.name
    program = ROOT / ".venv/bin/carillon"
    copy.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={program}", UNIT.read_text(), flags=re.MULTILINE))
    assert tool("systemd-analyze")("verify", "--man=no", copy) == ""


def test_it_is_exposed_to_little(tool: Callable[[str], Tool]) -> None:
    tool("systemd-analyze")("security", "--offline=true", f"--threshold={MOST_EXPOSED}", UNIT)
