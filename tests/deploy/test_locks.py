"""What is installed is fixed by version and hash, and by nothing that names a place."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.deploy.conftest import ROOT

LOCKS = sorted(path.name for path in ROOT.glob("requirements*.lock"))
REQUIREMENT = re.compile(r"^(?P<name>[a-z0-9._-]+)(?:\[[a-z0-9,._-]+\])?==(?P<version>[^\s;\\]+)(?: ; [^\\]+)?$")
HASH = re.compile(r"^--hash=sha256:[0-9a-f]{64}$")


def entries(lock: str) -> list[list[str]]:
    """Each requirement with its hashes."""
    joined = (ROOT / lock).read_text().replace("\\\n", "\n    ")
    groups: list[list[str]] = []
    for line in joined.splitlines():
        if line and not line.startswith(" "):
            groups.append([line.strip()])
        elif line.strip():
            groups[-1].append(line.strip())
    return groups


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_there_is_a_lock_for_each_way_of_installing() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert sorted(["requirements.lock", *(f"requirements-{extra}.lock" for extra in extras)]) == LOCKS


@pytest.mark.parametrize("lock", LOCKS)
def test_each_line_is_a_version_with_its_hashes(lock: str) -> None:
    """No address, no index, no file, no path of a machine: those are the installer's affair."""
    found = entries(lock)
    assert len(found) > 5
    for requirement, *hashes in found:
        assert REQUIREMENT.match(requirement), requirement
        assert hashes, requirement
        assert all(HASH.match(line) for line in hashes), requirement


@pytest.mark.parametrize("lock", LOCKS)
def test_what_the_project_asks_for_is_locked(lock: str) -> None:
    """A dependency that was added without locking would be installed by nobody."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = lock.removeprefix("requirements").removesuffix(".lock").strip("-")
    asked = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else [])]
    wanted = {normal(re.split(r"[\s<>=~;\[]", line, maxsplit=1)[0]) for line in asked}
    locked = {normal(match["name"]) for line, *_ in entries(lock) if (match := REQUIREMENT.match(line))}
    assert wanted - locked == set()


def test_locks_agree_about_what_runs() -> None:
    """What is tested and measured is what is shipped."""
    versions: dict[str, dict[str, str]] = {}
    for lock in LOCKS:
        for line, *_ in entries(lock):
            if (match := REQUIREMENT.match(line)) and ";" not in line:
                versions.setdefault(match["name"], {})[lock] = match["version"]
    shipped = {name: found for name, found in versions.items() if "requirements.lock" in found}
    assert {name: found for name, found in shipped.items() if len(set(found.values())) > 1} == {}


def test_the_bill_of_materials_is_reproducible_and_names_everything(tmp_path: Path) -> None:
    """As `make sbom` writes it: with a hash for each part of the lock, and nothing that differs from run to run."""
    file = tmp_path / "bill.json"
    command = ["cyclonedx_py", "requirements", "--output-reproducible", "--pyproject", "pyproject.toml"]
    command += ["--output-file", str(file), "requirements.lock"]
    subprocess.run([sys.executable, "-m", *command], check=True, cwd=ROOT, timeout=60, capture_output=True)
    bill = json.loads(file.read_text())
    assert "serialNumber" not in bill
    assert "timestamp" not in bill["metadata"]
    assert bill["metadata"]["component"]["name"] == "carillon"
    assert {(part["name"], part["version"]) for part in bill["components"]} == {
        (match["name"], match["version"])
        for line, *_ in entries("requirements.lock")
        if (match := REQUIREMENT.match(line))
    }
    for part in bill["components"]:
        assert any(reference.get("hashes") for reference in part["externalReferences"]), part["name"]
