"""Bytes against every parser that meets what strangers send: targets, a corpus of each, and a guided run.

`test_fuzz_corpus` replays the corpora in every run of the tests. `python -m tests.reliability.fuzz TARGET` looks for
more with Atheris; what breaks a target is left in its corpus, so that it is replayed from then on.
"""

from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
"""A folder a target; a file an input."""
NAMES = tuple(sorted(folder.name for folder in CORPUS.iterdir()))
