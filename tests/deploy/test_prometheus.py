"""The alarms: each is sound, fires when it should and only then, and tells where to read on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.conftest import DEPLOY, ROOT, Tool

RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
HERE = Path(__file__).parent


def headings(page: str) -> set[str]:
    """Anchors of a page, as its readers' links have them."""
    titles = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alarm_says_how_urgent_it_is_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert anchor == rule["alert"].lower()
    assert anchor in headings(page)


def test_the_runbook_has_no_section_for_an_alarm_that_is_gone() -> None:
    sections = re.findall(r"^#+ (Carillon[A-Z]\w+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    assert set(sections) == {rule["alert"] for rule in RULES}


def test_every_alarm_has_a_case_in_which_it_fires() -> None:
    cases = yaml.safe_load((HERE / "alerts_test.yml").read_text())["tests"]
    fired = {each["alertname"] for case in cases for each in case["alert_rule_test"] if each.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in RULES}


def test_promtool_accepts_rules_and_configuration(tool: Callable[[str], Tool]) -> None:
    promtool = tool("promtool")
    promtool("check", "rules", DEPLOY / "prometheus/alerts.yml")
    promtool("check", "config", DEPLOY / "prometheus/prometheus.yml")


def test_alarms_fire_when_they_should(tool: Callable[[str], Tool]) -> None:
    tool("promtool")("test", "rules", HERE / "alerts_test.yml")
