"""`python -m tests.reliability.fuzz TARGET --seconds 60`: look for bytes that break a target, guided by coverage.

What is found is left in the target's corpus as `crash-…` or `timeout-…`; the run ends there, with a status of its own.
Needs Atheris (the extra `long`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile

import atheris

from . import CORPUS, NAMES

atheris.enabled_hooks.add("str")
with atheris.instrument_imports(include=["providers", "gateway.ingest", "email._parseaddr", "email.utils"]):
    from . import targets

LONGEST = 4096
"""Bytes of an input."""
HANG = 2
"""Seconds. Instrumented code takes twice its time."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.fuzz")
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    corpus = CORPUS / chosen.target
    options = [f"-max_total_time={chosen.seconds}", f"-seed={chosen.seed}", f"-max_len={LONGEST}", f"-timeout={HANG}"]
    options += [f"-artifact_prefix={corpus}/", "-print_final_stats=1", "-rss_limit_mb=2048"]
    with tempfile.TemporaryDirectory(prefix="carillon-fuzz-") as grown:  # what it learns goes there
        atheris.Setup([sys.argv[0], *options, grown, str(corpus)], targets.ALL[chosen.target])
        atheris.Fuzz()


main()
