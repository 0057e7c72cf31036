"""docs/operations.md and what else is written for people: its links lead somewhere, its commands are commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from gateway.cli import app
from gateway.observe.families import FAMILIES, Family
from tests.deploy.conftest import ROOT
from tests.deploy.test_prometheus import headings

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def row(family: Family) -> str:
    name = f"{family.name}_total" if family.kind == "counter" else family.name
    return f"| `{name}` | {family.kind} | {', '.join(family.labels)} | {family.meaning} |"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_metric_has_its_row(family: Family) -> None:
    assert row(family) in (ROOT / "docs/operations.md").read_text(), (
        f"put this row into docs/operations.md: {row(family)}"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in headings(str(file.relative_to(ROOT))), target


def commands() -> Iterator[tuple[str, list[str]]]:
    """Each `carillon …` in a block of shell, without redirections and pipes, and where it stands."""
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0].endswith("carillon"):
                    end = next((at for at, word in enumerate(words) if word[0] in "|<>&;"), len(words))
                    yield page.name, words[1:end]


@pytest.mark.parametrize(
    ("page", "words"), list(commands()), ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_a_command_is_one(page: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its verbs exist, and it takes these options; the files that it names are there."""
    monkeypatch.chdir(tmp_path)
    for word in words:
        if re.fullmatch(r"[A-Za-z]\w*\.\w+", word):
            (tmp_path / word).touch()
    command = typer.main.get_command(app)
    while isinstance(command, TyperGroup):
        assert words, page
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    command.make_context("carillon", list(words))


def test_the_runbook_has_commands() -> None:
    assert len([words for page, words in commands() if page == "operations.md"]) >= 5
