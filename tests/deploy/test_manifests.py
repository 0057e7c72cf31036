"""Kubernetes: the chart, and the plain manifests that are written from it."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from gateway.app import DRAIN_DEADLINE
from gateway.settings import load
from gateway.supervisor import GRACE, SILENCE
from tests.deploy.conftest import DEPLOY, ROOT, Tool

CHART = DEPLOY / "helm/carillon"
PLAIN = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
KUBERNETES = ("1.33", "1.37")
"""Versions whose schemas all manifests keep to."""


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def of(kind: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    (only,) = [document for document in found if document["kind"] == kind]
    return only


@pytest.fixture(params=PLAIN, ids=lambda path: path.name)
def manifests(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return documents(request.param.read_text())


def pod(found: list[dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = of("StatefulSet", found)["spec"]["template"]["spec"]
    return spec


def validate(document: dict[str, Any]) -> None:
    """By Kubernetes' own schemas, where a field that is not known is an error."""
    for version in KUBERNETES:
        kubernetes_validate.validate(document, version, strict=True)


CUSTOM = {"ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule"}
"""Kinds of KEDA and of the Prometheus operator: their schemas are not Kubernetes'."""


def test_there_is_one_for_each_way_of_running() -> None:
    assert [path.stem for path in PLAIN] == [path.stem.removesuffix("-values") for path in VALUES]


def test_they_keep_to_the_schemas(manifests: list[dict[str, Any]]) -> None:
    for document in manifests:
        if document["kind"] not in CUSTOM:
            validate(document)


@pytest.mark.parametrize("path", PLAIN, ids=lambda path: path.name)
def test_they_are_what_the_chart_says_now(path: Path) -> None:
    """Their first line names the chart's contents: without helm too it is seen that `make render` was forgotten."""
    files = [each for each in CHART.rglob("*") if each.is_file() and each.parent.name != "files"]
    ordered = sorted(files, key=lambda each: f"./{each.relative_to(CHART)}".encode())
    digest = hashlib.sha256(b"".join(each.read_bytes() for each in ordered)).hexdigest()
    assert f"sha256 {digest}." in path.read_text().partition("\n")[0]


def test_nothing_runs_with_more_rights_than_it_needs(manifests: list[dict[str, Any]]) -> None:
    """Pod Security Standard "restricted", and a root file system that cannot be written."""
    spec = pod(manifests)
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert writable <= {"/data"}


def test_kubernetes_own_variables_are_not_taken_for_settings(manifests: list[dict[str, Any]]) -> None:
    """A Service called carillon would set CARILLON_PORT and more in every pod of its namespace."""
    assert pod(manifests)["enableServiceLinks"] is False


def test_what_a_pod_is_told_are_settings(manifests: list[dict[str, Any]], tmp_path: Path) -> None:
    """The file and the variables together; where it listens and writes is what probes and volumes expect."""
    (container,) = pod(manifests)["containers"]
    told = {each["name"]: each.get("value", "carillon-0") for each in container["env"]}
    file = tmp_path / "carillon.toml"
    file.write_text(of("ConfigMap", manifests)["data"]["carillon.toml"])
    settings = load(file, told)
    assert settings.http.port == container["ports"][0]["containerPort"]
    assert settings.data == Path("/data")
    assert settings.workers == 2
    assert bool(settings.kafka.servers) == bool(settings.redis.url) == ("ScaledObject" in str(manifests))


def test_it_has_time_to_drain(manifests: list[dict[str, Any]]) -> None:
    """First load balancers forget the pod, then it finishes what is on the wire, and only then it would be killed."""
    spec = pod(manifests)
    (container,) = spec["containers"]
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] > before + GRACE > before + DRAIN_DEADLINE


def test_probes_are_more_patient_than_the_supervisor(manifests: list[dict[str, Any]]) -> None:
    """A worker that hangs is replaced alone; the pod with all its workers only if that does not help."""
    (container,) = pod(manifests)["containers"]
    alive = container["livenessProbe"]
    assert alive["periodSeconds"] * alive["failureThreshold"] > SILENCE
    assert alive["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_egress_does_not_lead_into_the_cluster(manifests: list[dict[str, Any]]) -> None:
    """What strangers name as endpoints is reached at public addresses alone, whatever the gateway believes."""
    policy = of("NetworkPolicy", manifests)["spec"]
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
    blocks = [peer["ipBlock"] for rule in policy["egress"] for peer in rule["to"] if "ipBlock" in peer]
    ours = next(block for block in blocks if block["cidr"] == "0.0.0.0/0")
    private = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "127.0.0.0/8", "100.64.0.0/10"}
    assert private <= set(ours["except"])
    assert all(block["cidr"] != "::/0" for block in blocks)


def test_a_disruption_takes_one_at_a_time(manifests: list[dict[str, Any]]) -> None:
    budget = of("PodDisruptionBudget", manifests)["spec"]
    assert budget["maxUnavailable"] == 1
    labels = of("StatefulSet", manifests)["spec"]["template"]["metadata"]["labels"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()


def test_the_chart_is_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == project["version"]
    assert f"carillon:{project['version']}" in (ROOT / "compose.yaml").read_text()


def test_values_keep_to_their_schema_and_it_knows_them_all() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.validate(values, schema)
    assert set(schema["properties"]) - {"global"} == set(values)
    for path in VALUES:
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)


def test_alarms_and_dashboard_in_the_chart_are_the_ones() -> None:
    assert (CHART / "files/alerts.yml").resolve() == DEPLOY / "prometheus/alerts.yml"
    assert (CHART / "files/carillon.json").resolve() == DEPLOY / "grafana/carillon.json"


# With helm


def rendered(helm: Tool, *arguments: str | Path, status: int = 0) -> str:
    text = helm("template", "carillon", CHART, "--kube-version", "1.33.0", *arguments, status=status)
    return "".join(line for line in text.splitlines(keepends=True) if "found symbolic link" not in line)


def test_helm_lints_the_chart(tool: Callable[[str], Tool]) -> None:
    for values in VALUES:
        tool("helm")("lint", "--strict", CHART, "--values", values)


def test_the_plain_manifests_are_the_charts(tmp_path: Path, tool: Callable[[str], Tool]) -> None:
    tool("helm")
    Tool([str(DEPLOY / "kubernetes/render")])(tmp_path)
    for path in PLAIN:
        assert (tmp_path / path.name).read_text() == path.read_text(), "make render"


def combinations() -> Iterator[list[str]]:
    every = ["--set", "monitoring.enabled=true"]
    every += [
        "--set",
        "image.tag=v2",
        "--set",
        "imagePullSecrets[0].name=registry",
        "--set",
        "environmentSecret=secret",
    ]
    every += ["--set", "storage.className=fast", "--set", "nodeSelector.disk=ssd", "--set", "tolerations[0].key=push"]
    for values in VALUES:
        yield ["--values", str(values)]
        yield ["--values", str(values), *every]
        yield ["--values", str(values), "--set", "networkPolicy.enabled=false", "--set", "keysSecret="]


@pytest.mark.parametrize("arguments", list(combinations()), ids=lambda arguments: " ".join(arguments)[-60:])
def test_whatever_is_chosen_keeps_to_the_schemas(arguments: list[str], tool: Callable[[str], Tool]) -> None:
    for document in documents(rendered(tool("helm"), *arguments)):
        assert document["metadata"]["name"].startswith("carillon")
        if document["kind"] not in CUSTOM:
            validate(document)


def test_alarms_survive_the_chart(tool: Callable[[str], Tool]) -> None:
    """Their own braces are Prometheus', not helm's."""
    found = documents(rendered(tool("helm"), "--set", "monitoring.enabled=true"))
    assert of("PrometheusRule", found)["spec"] == yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
    dashboards = [each for each in found if each["kind"] == "ConfigMap" and each["metadata"]["name"].endswith("board")]
    shown = json.loads(dashboards[0]["data"]["carillon.json"])
    assert shown == json.loads((DEPLOY / "grafana/carillon.json").read_text())


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("replica=2", "replica"),
        ("replicas=2", "For more of them: queue: kafka"),
        ("queue=kafka", "queue: kafka needs kafka.servers"),
        ("kafka.servers[0]=broker", "kafka/servers"),
        ("workers=0", "workers"),
        ("storage.size=plenty", "storage"),
    ],
)
def test_what_cannot_be_is_refused(setting: str, sentence: str, tool: Callable[[str], Tool]) -> None:
    assert re.search(sentence, rendered(tool("helm"), "--set", setting, status=1))
