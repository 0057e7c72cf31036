"""Which loops a module's tests run on: what its `LOOPS` names, else asyncio's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from tests.gateway.virtual import VirtualLoop

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
