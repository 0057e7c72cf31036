"""What KEDA and the Prometheus operator are given, held against their own definitions; with `--tools` alone, as these
are downloaded (by go, as modules)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.conftest import Tool
from tests.deploy.test_manifests import CHART, documents, rendered

DEFINITIONS = {
    "ScaledObject": ("github.com/kedacore/keda/v2@v2.17.2", "config/crd/bases/keda.sh_scaledobjects.yaml"),
    "PodMonitor": (
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
    ),
    "PrometheusRule": (
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
}


def closed(schema: Any) -> Any:
    """The schema, with unknown fields refused, and without patterns, whose dialect is Go's."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items() if key != "pattern" or not isinstance(value, str)}
    if made.get("type") == "object" and "properties" in made and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


@pytest.fixture(scope="module")
def found(pytestconfig: pytest.Config, tool: Callable[[str], Tool]) -> dict[str, dict[str, Any]]:
    """All that the chart can make, by kind."""
    if not pytestconfig.getoption("tools"):
        pytest.skip("only with --tools: the definitions are downloaded")
    options = ["--values", CHART / "ci/kafka-values.yaml", "--set", "monitoring.enabled=true", "--set", "tls=true"]
    options += ["--set", "autoscaling.triggerAuthentication=brokers"]
    return {document["kind"]: document for document in documents(rendered(tool("helm"), *options))}


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_it_keeps_to_its_definition(kind: str, found: dict[str, dict[str, Any]], tool: Callable[[str], Tool]) -> None:
    module, path = DEFINITIONS[kind]
    folder = Path(json.loads(tool("go")("mod", "download", "-json", module))["Dir"])
    definition = yaml.safe_load((folder / path).read_text())["spec"]
    document = found[kind]
    group, _, version = document["apiVersion"].partition("/")
    assert (definition["group"], definition["names"]["kind"]) == (group, kind)
    (schema,) = [each["schema"]["openAPIV3Schema"] for each in definition["versions"] if each["name"] == version]
    parts = closed(schema)
    parts["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(document, parts)
