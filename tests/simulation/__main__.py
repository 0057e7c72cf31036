"""`python -m tests.simulation SEED [COUNT]`: tell what happens in one run, or play many and show those that fail."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.simulation.material import settings_in
from tests.simulation.run import play, replay


def main(seed: int, count: int) -> int:
    faults: Counter[str] = Counter()
    states: Counter[str] = Counter()
    failed = duplicates = 0
    virtual = 0.0
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_in(Path(folder))
        for each in range(seed, seed + count):
            played = play(each, settings, print if count == 1 else None)
            faults.update(played.faults)
            states.update(played.states)
            virtual += played.seconds
            duplicates += played.balance.duplicates if played.balance else 0
            if count == 1:
                print(f"history {played.history}")
            if played.problems:
                failed += 1
                print(f"seed {each}: {replay(each)}", *played.problems[:5], sep="\n  ", flush=True)
    spent = time.process_time() - began
    print(f"{count} seeds, {failed} failed, {spent / count:.2f} s of CPU and {virtual / count:.0f} virtual ones each")
    print(dict(faults), dict(states), f"duplicates {duplicates}")
    return failed


if __name__ == "__main__":
    sys.exit(bool(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)))
