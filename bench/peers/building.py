"""Building a peer's program out of its folder, into `var/peers`, with the ordinary tool of its language.

A program is built once for a state of its folder. Whatever the tools write lands in the copy, so that the folder stays
as it is in the repository.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).resolve().parent
BUILT = ROOT / "var" / "peers"
DEADLINE = 1800.0
"""Seconds that one step may take: what is not in a tool's cache is fetched and compiled first."""

Builder = Callable[[str], list[str]]
"""Makes the program of a peer's folder and returns its command."""


class CannotBuild(Exception):
    """The message says what is missing or what failed."""


def python(folder: str) -> list[str]:
    """In an environment of its own, by the hashes of its lock file."""

    def build(work: Path) -> None:
        interpreter, lock = str(work / "venv" / "bin" / "python"), str(work / "requirements.lock")
        if shutil.which("uv"):
            _step(work, "uv", "venv", "--quiet", "--python", sys.executable, "venv")
            _step(work, "uv", "pip", "install", "--quiet", "--python", interpreter, "--require-hashes", "-r", lock)
        else:
            _step(work, sys.executable, "-m", "venv", "venv")
            _step(work, interpreter, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", lock)

    work = _once(folder, build)
    return [str(work / "venv" / "bin" / "python"), "-m", f"bench.peers.{folder}.send"]


def go(folder: str) -> list[str]:
    work = _once(folder, lambda work: _step(work, "go", "build", "-mod=readonly", "-o", "peer", "."))
    return [str(work / "peer")]


def cargo(folder: str) -> list[str]:
    """Optimised; a folder's `prepare.py` is run before, where there is one."""

    def build(work: Path) -> None:
        if (work / "prepare.py").exists():
            _step(work, "cargo", "fetch", "--quiet")
            _step(work, sys.executable, "prepare.py")
        _step(work, "cargo", "build", "--quiet", "--release", "--target-dir", "target")

    work = _once(folder, build)
    return [str(next((work / "target" / "release").glob("*-peer")))]


def maven(folder: str) -> list[str]:
    goals = ("compile", "dependency:copy-dependencies")
    work = _once(folder, lambda work: _step(work, "mvn", "--quiet", "--batch-mode", *goals))
    _need("java")
    return ["java", "-cp", f"{work / 'target' / 'classes'}:{work / 'target' / 'dependency'}/*", "Send"]


def installed(tool: str, package: str) -> Builder:
    """A program of the operating system, driven by the `send.py` of the folder."""

    def build(folder: str) -> list[str]:
        _need(tool, f" (Debian's package {package})")
        return [sys.executable, "-m", f"bench.peers.{folder}.send"]

    return build


def _once(folder: str, build: Callable[[Path], None]) -> Path:
    source, work = SOURCES / folder, BUILT / folder
    stamp, digest = work / ".built", _digest(source)
    if stamp.exists() and stamp.read_text() == digest:
        return work
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source, work, ignore=shutil.ignore_patterns("__pycache__"))
    build(work)
    stamp.write_text(digest)
    return work


def _digest(source: Path) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(source.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(b"%b\0%b\0" % (str(path.relative_to(source)).encode(), path.read_bytes()))
    return digest.hexdigest()


def _need(tool: str, hint: str = "") -> None:
    if shutil.which(tool) is None:
        raise CannotBuild(f"{tool} is not installed{hint}")


def _step(work: Path, *command: str) -> None:
    _need(command[0])
    try:
        done = subprocess.run(
            command, cwd=work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=DEADLINE, text=True, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise CannotBuild(f"{_named(command)} took more than {DEADLINE:g} s") from None
    if done.returncode:
        log = work / "build.log"
        log.write_text(done.stdout)
        raise CannotBuild(f"{_named(command)} failed; see {log.relative_to(ROOT)}")


def _named(command: Sequence[str]) -> str:
    return " ".join([Path(command[0]).name, *command[1:3]])
