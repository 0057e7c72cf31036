"""Put on a gateway's PYTHONPATH, this lets it fail in places where it never should, quoting what it has at hand."""

from __future__ import annotations

import asyncio
import logging
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


def _boarding(module: ModuleType) -> None:
    """A batch that cannot be prepared, a callback that fails, and a library that is chatty about it."""
    board = module.board

    async def failing(lease: Any, *more: Any, **named: Any) -> Any:
        if lease.job.campaign == "fails":
            quoted = f"{lease.job.message} {lease.columns}"
            logging.getLogger("aiokafka.consumer").error("cannot read %s of %r", quoted, lease.columns)
            logging.getLogger("hpack").debug("encoding %s", quoted)
            asyncio.get_running_loop().call_soon(_raise, quoted)
            asyncio.get_running_loop().create_task(_forget(quoted))
            raise LookupError(quoted)
        return await board(lease, *more, **named)

    module.board = failing


def _lookup(module: ModuleType) -> None:
    """A route that fails while it answers."""
    read = module.submission.read

    def failing(text: bytes, kind: Any) -> Any:
        if b"breaks the door" in text:
            raise RuntimeError(text.decode())
        return read(text, kind)

    module.submission.read = failing


def _raise(quoted: str) -> None:
    raise ValueError(quoted)


async def _forget(quoted: str) -> None:
    raise ValueError(quoted)


CHANGES = {"gateway.dispatch.boarding": _boarding, "gateway.ingest.intake": _lookup}


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in CHANGES:
            return None
        spec = PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        spec.loader = _Failing(spec.loader, name)
        return spec


class _Failing(Loader):
    def __init__(self, real: Loader, name: str) -> None:
        self._real = real
        self._name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        CHANGES[self._name](module)


sys.meta_path.insert(0, _Finder())
