"""Most tests here run on a loop whose clock jumps."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.gateway.loops import LoopFactory, factories
from tests.gateway.virtual import wall


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    return factories(item)


@pytest.fixture(autouse=True)
def _wall(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "virtual" in getattr(request.module, "LOOPS", ()):
        wall(monkeypatch)
