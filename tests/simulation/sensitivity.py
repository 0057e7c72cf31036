"""After how many seeds each broken promise is noticed: `python -m tests.simulation.sensitivity [LIMIT [NAME...]]`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from gateway.settings import Settings
from tests.simulation.material import settings_in
from tests.simulation.mutations import MUTATIONS, Mutation, broken
from tests.simulation.run import play

FIRST = 1
LIMIT = 100
"""Seeds after which it is given up."""


def noticed(mutation: Mutation, settings: Settings, limit: int) -> tuple[int, str] | None:
    """How many seeds it takes, and what is said of it first; None if `limit` are not enough."""
    with broken(mutation):
        for seed in range(FIRST, FIRST + limit):
            if problems := play(seed, settings).problems:
                return seed - FIRST + 1, problems[0].splitlines()[-1]
    return None


def main(limit: int, names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_in(Path(folder))
        for name in names or MUTATIONS:
            seeds, problem = noticed(MUTATIONS[name], settings, limit) or (f"> {limit}", "")
            print(f"{name:<40} {seeds:>6}  {problem[:150]}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else LIMIT, sys.argv[2:])
