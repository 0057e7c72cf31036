"""Options of every test run."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("carillon")
    group.addoption("--long", action="store_true", help="Attack at full scale: what `make test-long` runs.")
    group.addoption("--evidence", metavar="FOLDER", help="Keep what the attacks found, as JSON, one file an attack.")
