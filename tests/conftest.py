"""Options of every test run."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes is the machine's affair while others use it too; each test has its own timeout.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("carillon")
    group.addoption("--long", action="store_true", help="Attack at full scale: what `make test-long` runs.")
    group.addoption("--tools", action="store_true", help="A tool that is missing is a failure: `make manifests`.")
    group.addoption("--evidence", metavar="FOLDER", help="Keep what the attacks found, as JSON, one file an attack.")
