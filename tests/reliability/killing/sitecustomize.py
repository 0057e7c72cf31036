"""Put on a gateway's PYTHONPATH, this makes some notifications deadly: rendering them ends the process.

It stands for whatever a message could do to a worker that no `except` catches. Their tokens say how: `kill-me` by
SIGKILL, as the kernel does when memory is short; `exit-me` without a word, as a library in C may.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

PLANS = "providers.fcm.request"


def _make_deadly(module: ModuleType) -> None:
    render: Callable[..., Any] = module.FcmPlan.render

    def deadly(plan: Any, rows: Any, now: float) -> Any:
        if any(token.startswith(b"kill-me") for token in rows.targets[0]):
            os.kill(os.getpid(), signal.SIGKILL)
        if any(token.startswith(b"exit-me") for token in rows.targets[0]):
            os._exit(7)
        return render(plan, rows, now)

    module.FcmPlan.render = deadly  # type: ignore[attr-defined]


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != PLANS:
            return None
        spec = PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        spec.loader = _Deadly(spec.loader)
        return spec


class _Deadly(Loader):
    def __init__(self, real: Loader) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        _make_deadly(module)


sys.meta_path.insert(0, _Finder())
