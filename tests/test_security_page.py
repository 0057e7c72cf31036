"""docs/security.md names tests that there are, for every threat that it names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/security.md").read_text()
TABLES = ("## Threats to the service", "## A hostile service at the other end of HTTP/2")
THREATS = (29, 10)
"""Rows of each: who takes one away takes it away here as well."""
_ID = re.compile(r"`(tests/[\w/]+\.py(?:::\w+)*)`")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading."""
    section = PAGE.partition(heading + "\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def cases_of(path: Path) -> Iterator[str]:
    """What pytest would call the tests of a file, and the file itself."""
    name = path.relative_to(ROOT).as_posix()
    yield name
    for node in ast.parse(path.read_text()).body:
        yield from _named(name, node)


def _named(before: str, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
        yield f"{before}::{node.name}"
    if isinstance(node, ast.ClassDef):
        for inner in node.body:
            yield from _named(f"{before}::{node.name}", inner)


@pytest.mark.parametrize("test", sorted(set(_ID.findall(PAGE))))
def test_a_named_test_exists(test: str) -> None:
    path = ROOT / test.partition("::")[0]
    assert path.is_file(), f"{test}: there is no such file"
    assert test in set(cases_of(path)), f"{test}: there is no such test"


@pytest.mark.parametrize(("heading", "count"), list(zip(TABLES, THREATS, strict=True)))
def test_every_threat_has_its_tests_or_says_that_it_has_none(heading: str, count: int) -> None:
    found = rows(heading)
    assert len(found) == count
    for threat, control, shown in found:
        assert threat
        assert control
        assert _ID.findall(shown) or shown == "none yet", threat


def test_folders_that_it_sends_to_exist() -> None:
    for folder in re.findall(r"`(deploy/\w+)`", PAGE):
        assert (ROOT / folder).is_dir(), folder
