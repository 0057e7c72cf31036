"""The repository that is measured, as git tells of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.processes import ProcessFailed

ROOT = Path(__file__).parent.parent


def git(*arguments: str) -> bytes:
    """What a command of git prints.

    Raises:
        ProcessFailed: it failed.
    """
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    if done.returncode:
        raise ProcessFailed(f"git {arguments[0]}: {done.stderr.decode().strip()}")
    return done.stdout
