"""`compose.yaml`: two gateways, what they share, and who watches them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.settings import load
from tests.deploy.conftest import ROOT, Tool

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
GATEWAYS = ("gateway-1", "gateway-2")


def test_it_is_what_it_says() -> None:
    assert {*GATEWAYS, "kafka", "valkey", "prometheus", "grafana"} <= set(SERVICES)


@pytest.mark.parametrize("name", GATEWAYS)
def test_a_gateway_is_confined(name: str) -> None:
    gateway = SERVICES[name]
    assert gateway["read_only"]
    assert gateway["cap_drop"] == ["ALL"]
    assert gateway["security_opt"] == ["no-new-privileges:true"]
    assert gateway["stop_grace_period"] == "30s"


def test_each_gateway_has_a_disk_of_its_own() -> None:
    first, second = ({line for line in SERVICES[name]["volumes"] if line.endswith(":/data")} for name in GATEWAYS)
    assert len(first) == len(second) == 1
    assert not first & second


def test_nothing_is_open_to_the_network() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(ports)


def test_what_is_mounted_exists_and_volumes_are_declared() -> None:
    named = set()
    for service in SERVICES.values():
        for line in service.get("volumes", []):
            source = line.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), source
                assert line.endswith(":ro"), line
            else:
                named.add(source)
    assert named == set(COMPOSE["volumes"])


def test_images_are_of_a_version() -> None:
    for name, service in SERVICES.items():
        _, _, tag = service["image"].rpartition(":")
        assert tag[0].isdigit() or tag[0] == "v", name


def test_the_gateways_settings_are_settings() -> None:
    settings = load(ROOT / "deploy/compose/carillon.toml", {})
    assert settings.http.host == "0.0.0.0"
    assert settings.data == Path("/data")
    assert settings.kafka.servers == ("kafka:9092",)
    assert settings.redis.url.get_secret_value() == "redis://valkey:6379"
    assert settings.kafka.replication == settings.kafka.min_insync == 1, "there is one broker"


def test_prometheus_asks_the_gateways_and_grafana_asks_prometheus() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "carillon"
    assert job["static_configs"] == [{"targets": [f"{name}:8080" for name in GATEWAYS]}]
    source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"


def test_the_dashboard_is_where_grafana_looks() -> None:
    provider = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/carillon.yaml").read_text())
    folder = provider["providers"][0]["options"]["path"]
    assert any(f":{folder}/carillon.json:ro" in line for line in SERVICES["grafana"]["volumes"])


def test_docker_compose_accepts_it(tool: Callable[[str], Tool]) -> None:
    resolved = yaml.safe_load(tool("docker-compose")("--file", ROOT / "compose.yaml", "config"))
    assert set(resolved["services"]) == set(SERVICES)
