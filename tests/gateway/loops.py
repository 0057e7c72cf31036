"""Which loops a module's tests run on: what its `LOOPS` names, else asyncio's own. For `conftest.py` to import."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from tests.gateway.virtual import VirtualLoop, wall

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

FACTORIES: dict[str, LoopFactory] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
    "virtual": VirtualLoop,
}


def factories(item: pytest.Item) -> Mapping[str, LoopFactory]:
    """For the hook `pytest_asyncio_loop_factories`."""
    names = getattr(getattr(item, "module", None), "LOOPS", ("asyncio",))
    return {name: FACTORIES[name] for name in names}


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    return factories(item)


@pytest.fixture(autouse=True)
def wall_follows_the_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the loop's clock jumps."""
    if "virtual" in getattr(request.module, "LOOPS", ()):
        wall(monkeypatch)
