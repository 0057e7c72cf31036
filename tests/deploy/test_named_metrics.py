"""Dashboard, alerts and runbook speak of metrics that a running gateway has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import pytest
import yaml

from bench.world import World
from gateway.observe.families import FAMILIES
from tests.deploy.conftest import DEPLOY, ROOT

NAME = re.compile(r"\bcarillon(?:_[a-z0-9]+)+\b")
SELECTOR = re.compile(r"\b(carillon_[a-z0-9_]+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!=|!~|=)\s*"')
ADDED = {"instance", "job"}
"""Labels that Prometheus adds."""
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def exposed() -> set[str]:
    """Names of all samples that `/metrics` may show, from one that runs."""
    with World(["stub"], mode="quick") as world, urlopen(f"{world.url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    histograms = {name for name, kind in kinds.items() if kind == "histogram"}
    return set(kinds) | {f"{name}_{part}" for name in histograms for part in ("bucket", "count", "sum")}


def expressions(node: Any) -> Iterator[str]:
    """Every query in a dashboard."""
    if isinstance(node, dict):
        yield from (node[key] for key in ("expr", "query") if isinstance(node.get(key), str))
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from expressions(each)


def dashboard() -> list[str]:
    return list(expressions(json.loads((DEPLOY / "grafana/carillon.json").read_text())))


def alerts() -> list[str]:
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def test_what_is_asked_for_exists(exposed: set[str]) -> None:
    for place, queries in (("dashboard", dashboard()), ("alerts", alerts())):
        named = {name for query in queries for name in NAME.findall(query)}
        assert len(named) > 10, place
        assert named - exposed == set(), place


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_only_what_exists(page: str, exposed: set[str]) -> None:
    named = set(NAME.findall((ROOT / page).read_text()))
    counters = {name.removesuffix("_total") for name in exposed}
    assert named - exposed - counters == set()


def test_labels_are_those_of_the_metric() -> None:
    """A selector with a label that does not exist finds nothing, and nobody is alarmed."""
    labels = {family.name: {*family.labels, *ADDED} for family in FAMILIES}
    for query in (*dashboard(), *alerts()):
        for name, matchers in SELECTOR.findall(query):
            family = re.sub(r"_(total|bucket|sum|count)$", "", name)
            known = labels.get(name, labels.get(family, set())) | ({"le"} if name.endswith("_bucket") else set())
            assert set(MATCHER.findall(matchers)) - known == set(), query


def test_every_metric_is_on_the_dashboard() -> None:
    """What is worth counting is worth seeing."""
    shown = {re.sub(r"_(total|bucket|sum|count)$", "", name) for query in dashboard() for name in NAME.findall(query)}
    assert {family.name for family in FAMILIES} - shown == set()


def test_panels_do_not_overlap() -> None:
    """Grafana would move them, and show another page than the one in the file."""
    taken: set[tuple[int, int]] = set()
    ids = []
    for panel in json.loads((DEPLOY / "grafana/carillon.json").read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        ids.append(panel["id"])
    assert len(set(ids)) == len(ids)
