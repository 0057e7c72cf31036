"""The table of imports in docs/architecture.md is the code's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("bench", "gateway", "providers")
_ROW = re.compile(r"^\| `([a-z0-9._]+)` \| (.+) \|$", re.MULTILINE)


def allowed() -> dict[str, set[str]]:
    """Package -> packages that the page lets it import."""
    table: dict[str, set[str]] = {}
    for package, cell in _ROW.findall((ROOT / "docs/architecture.md").read_text()):
        named = set(re.findall(r"`([a-z0-9._]+)`", cell))
        table[package] = named | (set(table) if cell.startswith("everything above") else set())
    return table


def unit(module: str) -> str:
    """The row of the table that a module belongs to."""
    parts = module.split(".")
    if parts[0] == "gateway":
        return ".".join(parts[:2])
    return ".".join(parts[:2]) if parts[1:2] in (["simulators"], ["wire_client"], ["recorder"]) else parts[0]


def imports() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for name in _imported(ast.parse(path.read_text())):
                if name.split(".")[0] in PACKAGES:
                    yield unit(module), unit(name)


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


@pytest.mark.parametrize(("importer", "imported"), sorted(set(imports())))
def test_an_import_goes_the_way_the_page_shows(importer: str, imported: str) -> None:
    if importer not in ("gateway.__main__", imported):
        assert imported in allowed()[importer], f"{importer} imports {imported}: move the code or change the page"


def test_the_page_allows_nothing_that_is_not_used() -> None:
    """A row that names more than there is describes another program."""
    used = set(imports())
    for package, targets in allowed().items():
        if package not in ("gateway.app", "gateway.commands"):
            assert {target for target in targets if (package, target) not in used} == set(), package


def test_every_package_has_its_row() -> None:
    assert {importer for importer, _ in imports()} - set(allowed()) <= {"gateway.__main__", "gateway", "bench"}
