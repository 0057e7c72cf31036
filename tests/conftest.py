"""Options of every test run."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("carillon")
    group.addoption("--long", action="store_true", help="Attack at full scale: what `make test-long` runs.")
    group.addoption("--tools", action="store_true", help="A tool that is missing is a failure: `make manifests`.")
    group.addoption("--evidence", metavar="FOLDER", help="Keep what the attacks found, as JSON, one file an attack.")


def pytest_configure(config: pytest.Config) -> None:
    """How properties are tried: the same examples in each default run, which passes or not by the code alone; new ones
    in a long run."""
    # How long an example takes is the machine's affair while others use it too; each test has its own timeout.
    patient = [HealthCheck.too_slow]
    again = not config.getoption("--long")
    settings.register_profile("shared", deadline=None, suppress_health_check=patient, derandomize=again)
    settings.load_profile("shared")
