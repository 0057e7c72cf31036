"""A real Prometheus reads a real gateway, and answers what dashboard and alarms ask."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from bench.processes import Child
from bench.world import World, free_port
from gateway.client import Client
from tests.deploy.conftest import DEPLOY, Tool
from tests.deploy.test_named_metrics import alerts, expressions

DEADLINE = 30.0
VARIABLES = {"$__rate_interval": "1m", "$instance": ".*", "$app": ".*", "$provider": ".*"}


class Prometheus:
    """One that listens."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The series of an instant query; fails where it is none."""
        with urlopen(f"{self.url}/api/v1/query?{urlencode({'query': query})}", timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found

    def wait(self, query: str) -> None:
        end = time.monotonic() + DEADLINE
        while True:
            try:
                if self.ask(query):
                    return
            except OSError:
                pass
            assert time.monotonic() < end, f"no answer to {query}"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, tool: Callable[[str], Tool]) -> Iterator[Prometheus]:
    """With the rules of `deploy/`, and its scrape job asking one gateway that has sent something."""
    (program,) = tool("prometheus").command
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    with World(["stub"], mode="quick") as world:
        config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(DEPLOY / "prometheus/alerts.yml")]
        config["scrape_configs"][0]["static_configs"] = [{"targets": [world.url.removeprefix("http://")]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        recipients = [{"id": "a", "provider": "stub", "token": "device-1"}]
        job = {"app": "shop", "class": "transactional", "message": {"title": "Hi"}, "recipients": recipients}
        Client(world.url, world.key).submit(job)
        process = start(program, folder, port)
        try:
            server = Prometheus(f"http://127.0.0.1:{port}")
            server.wait('carillon_receipts_total{state="accepted"} > 0')
            yield server
        finally:
            process.stop()


def start(program: str, folder: Path, port: int) -> Child:
    options = [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder}"]
    return Child("prometheus", [f"--config.file={folder / 'prometheus.yml'}", *options], folder, program=program)


def test_each_gateway_is_a_target_of_the_job(prometheus: Prometheus) -> None:
    assert [series["value"][1] for series in prometheus.ask('up{job="carillon"}')] == ["1"]


def test_it_understands_every_question_of_the_dashboard(prometheus: Prometheus) -> None:
    """And has an answer to most: what has not happened yet has none."""
    panels = json.loads((DEPLOY / "grafana/carillon.json").read_text())["panels"]
    questions = list(expressions(panels))
    answered = 0
    for question in questions:
        for name, value in VARIABLES.items():
            question = question.replace(name, value)
        answered += bool(prometheus.ask(question))
    assert answered > len(questions) / 2


def test_no_alarm_fires_of_a_gateway_that_is_well(prometheus: Prometheus) -> None:
    assert [query for query in alerts() if prometheus.ask(query)] == []
