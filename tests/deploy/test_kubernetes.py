"""The Kubernetes manifests, as Kustomize renders them: against the schemas of their kinds, and against compose.yaml."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from deploy.console.settings import ConsoleSettings
from deploy.console.sign_in import may_be_open
from deploy.exporter.wanted import HANDLERS_PER_EXPRESS, PATH
from deploy.health import DUTIES
from shared.settings import SettingError, load
from tests.benchmarks import report
from tests.benchmarks.sizes import CHILDREN, request_of
from tests.deploy.checks import ROOT, needs_checks, read_yaml, run_tool

FOLDER = ROOT / "deploy" / "kubernetes"
COMPOSE = ROOT / "deploy" / "docker" / "compose.yaml"
OVERLAYS = ["overlays/small", "overlays/production"]
ALL = [*OVERLAYS, "migrate/pre", "migrate/post"]
DEFINITIONS = ROOT / "tests" / "deploy" / "definitions"
"""Of kinds that are not Kubernetes' own; `reduce_definition.py` has made them, and each says of what."""
OPERATORS = sorted(it.stem for it in DEFINITIONS.glob("*.json"))

pytestmark = [
    needs_checks,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed: it renders the manifests"),
]


@cache
def render(name: str) -> str:
    done = subprocess.run(["kubectl", "kustomize", FOLDER / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def objects(name: str) -> dict[tuple[str, str], Any]:
    return {(it["kind"], it["metadata"]["name"]): it for it in read_yaml(render(name))}


def deployments(name: str) -> dict[str, Any]:
    return {key[1].removeprefix("webhook-"): it for key, it in objects(name).items() if key[0] == "Deployment"}


def pods(name: str) -> dict[str, Any]:
    return {
        key[1]: it["spec"]["template"]["spec"] for key, it in objects(name).items() if key[0] in {"Deployment", "Job"}
    }


def settings(name: str) -> dict[str, str]:
    (found,) = [it["data"] for (kind, _), it in objects(name).items() if kind == "ConfigMap"]
    return dict(found)


@pytest.mark.parametrize("name", ALL)
def test_every_object_keeps_to_the_schema_of_kubernetes(name: str, tmp_path: Path) -> None:
    own = [it for (kind, _), it in objects(name).items() if kind not in OPERATORS]
    rendered = tmp_path / "rendered.yaml"
    rendered.write_text("\n---\n".join(map(json.dumps, own)))
    done = run_tool("kubernetes-validate", "--strict", rendered)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count(" passed ") == len(own)


@pytest.mark.parametrize("kind", OPERATORS)
def test_objects_of_operators_keep_to_the_schemas_of_their_kinds(kind: str, tmp_path: Path) -> None:
    found = [it for (its, _), it in objects("overlays/production").items() if its == kind]
    assert found
    assert refusal(found, tmp_path) == ""


@pytest.mark.parametrize("kind", OPERATORS)
def test_a_field_that_a_kind_does_not_have_is_found(kind: str, tmp_path: Path) -> None:
    one = next(it for (its, _), it in objects("overlays/production").items() if its == kind)
    assert "'polingInterval' was unexpected" in refusal([one | {"spec": one["spec"] | {"polingInterval": 5}}], tmp_path)


def test_every_kind_is_kubernetes_own_or_has_its_definition_here() -> None:
    kinds = {it["kind"]: it["apiVersion"] for name in ALL for it in objects(name).values()}
    others = {kind for kind, api in kinds.items() if "." in api.partition("/")[0] and ".k8s.io/" not in api}
    assert others == set(OPERATORS)


def refusal(found: list[Any], folder: Path) -> str:
    """Return what the schema of their kind says against some objects of it, empty if nothing."""
    definition = json.loads((DEFINITIONS / f"{found[0]['kind']}.json").read_text())
    schema = folder / "schema.json"
    schema.write_text(json.dumps(closed(definition["versions"][found[0]["apiVersion"].partition("/")[2]])))
    instances = [folder / f"{it['metadata']['name']}.json" for it in found]
    for it, instance in zip(found, instances, strict=True):
        instance.write_text(json.dumps(it))
    done = run_tool("check-jsonschema", "--schemafile", schema, *instances)
    return "" if done.returncode == 0 else done.stdout


def closed(schema: Any) -> Any:
    """Return the schema of a CRD with what it does not name forbidden, and without patterns that only Go reads."""
    if isinstance(schema, list):
        return [closed(it) for it in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items() if not (key == "pattern" and "(?" in str(value))}
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        found.setdefault("additionalProperties", False)
    return found


def test_keda_asks_for_each_duty_that_the_exporter_tells_and_for_as_many_as_a_pod_has() -> None:
    scaled = {name: it["spec"] for (kind, name), it in objects("overlays/production").items() if kind == "ScaledObject"}
    assert set(scaled) == {"webhook-ingest", "webhook-handlers", "webhook-express"}
    service = objects("overlays/production")["Service", "webhook-exporter"]
    for name, spec in scaled.items():
        duty = name.removeprefix("webhook-")
        deployment = deployments("overlays/production")[duty]["spec"]
        (one,) = deployment["template"]["spec"]["containers"]
        assert spec["scaleTargetRef"] == {"name": name}
        assert "replicas" not in deployment
        assert spec["pollingInterval"] == 5
        assert 0 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
        (trigger,) = spec["triggers"]
        assert trigger["type"] == "metrics-api"
        where = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
        assert trigger["metadata"] == {
            "url": f"http://{where}:{service['spec']['ports'][0]['port']}{PATH}",
            "valueLocation": duty,
            "targetValue": one["command"][one["command"].index("-c") + 1],
        }
    assert HANDLERS_PER_EXPRESS == 4


def test_the_operator_scrapes_what_prometheus_does_and_has_the_same_rules() -> None:
    found = objects("overlays/production")
    jobs = {}
    for kind, name, endpoints in (
        ("ServiceMonitor", "webhook-exporter", "endpoints"),
        ("PodMonitor", "webhook-ingress", "podMetricsEndpoints"),
    ):
        spec = found[kind, name]["spec"]
        (endpoint,) = spec[endpoints]
        pod = deployments("overlays/production")[name.removeprefix("webhook-")]["spec"]["template"]
        assert spec["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        (one,) = pod["spec"]["containers"]
        assert endpoint["port"] in {it["name"] for it in one["ports"]}
        (relabeling,) = endpoint["relabelings"]
        jobs[name] = relabeling["replacement"]
    labels = found["Service", "webhook-exporter"]["metadata"]["labels"]
    assert found["ServiceMonitor", "webhook-exporter"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (prometheus,) = read_yaml((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert sorted(jobs.values()) == sorted(it["job_name"] for it in prometheus["scrape_configs"])
    (rules,) = read_yaml((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())
    assert found["PrometheusRule", "webhook-pipeline"]["spec"] == rules


@pytest.mark.parametrize("name", OVERLAYS)
def test_there_is_a_deployment_for_every_duty_with_probes_that_ask_for_it(name: str) -> None:
    assert set(deployments(name)) == set(DUTIES)
    for duty, deployment in deployments(name).items():
        (one,) = deployment["spec"]["template"]["spec"]["containers"]
        for probe in ("startupProbe", "livenessProbe"):
            assert one[probe]["exec"]["command"] == ["pipeline", "health", duty]
            assert one[probe]["timeoutSeconds"] >= 5


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_deployment_runs_the_command_that_compose_runs_and_ends_in_no_less_time(name: str) -> None:
    (compose,) = read_yaml(COMPOSE.read_text())
    for duty, deployment in deployments(name).items():
        service = compose["services"]["ingress-1" if duty == "ingress" else duty]
        pod = deployment["spec"]["template"]["spec"]
        (one,) = pod["containers"]
        assert one.get("command") == (service.get("entrypoint") or service.get("command")), duty
        assert one["image"].endswith(f"webhook-pipeline-{service['build']['target']}:0.2.0")
        assert pod["terminationGracePeriodSeconds"] >= int(service["stop_grace_period"].removesuffix("s")), duty


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_console_listens_where_its_service_and_its_probes_ask(name: str) -> None:
    pod = deployments(name)["console"]["spec"]["template"]["spec"]
    (one,) = pod["containers"]
    secret = {"REDIS_URL": "redis://redis:6379/0", "DATABASE_URL": "postgresql://pipeline@postgres:5432/pipeline"}
    given = {it["name"]: it["value"] for it in one["env"] if "value" in it}
    found = load(ConsoleSettings, settings(name) | secret | given)
    assert one["ports"] == [{"name": "http", "containerPort": found.port}]
    assert one["readinessProbe"]["httpGet"] == {"path": "/livez", "port": "http"}
    assert objects(name)["Service", "webhook-console"]["spec"]["ports"][0]["targetPort"] == "http"
    assert found.url == f"http://127.0.0.1:{found.port}"
    with pytest.raises(SettingError, match="no users"):
        may_be_open(found, 0)


def test_the_console_waits_for_its_first_user_before_it_starts(database_url: str) -> None:
    pod = deployments("overlays/small")["console"]["spec"]["template"]["spec"]
    (one,), (first_user,) = pod["containers"], pod["initContainers"]
    assert (first_user["image"], first_user["envFrom"], first_user["env"]) == (one["image"], one["envFrom"], one["env"])
    command = [word.replace("sleep 5", "sleep 0.1") for word in first_user["command"]]
    environ = {"DATABASE_URL": database_url, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with subprocess.Popen(command, env=environ) as waiting:
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                waiting.wait(5)
            add_user = ["pipeline", "console", "add-user", "alice", "--role", "admin", "--no-password"]
            subprocess.run(add_user, env=environ, capture_output=True, check=True)
            assert waiting.wait(30) == 0
        finally:
            waiting.kill()


@pytest.mark.parametrize("phase", ["pre", "post"])
def test_each_phase_of_the_migrations_has_a_job(phase: str) -> None:
    (pod,) = pods(f"migrate/{phase}").values()
    assert pod["containers"][0]["args"] == ["migrate", "--phase", phase]
    assert ("Job", f"webhook-migrate-{phase}") in objects(f"migrate/{phase}")


def test_express_workers_have_a_quarter_of_the_processes_of_handler_workers() -> None:
    def processes(duty: str) -> int:
        deployment = deployments("overlays/small")[duty]
        command = deployment["spec"]["template"]["spec"]["containers"][0]["command"]
        return int(command[command.index("-c") + 1]) * int(deployment["spec"]["replicas"])

    assert processes("express") == max(1, processes("handlers") // 4)


@pytest.mark.parametrize("name", ALL)
def test_every_pod_keeps_to_the_restricted_standard_on_a_read_only_root(name: str) -> None:
    for pod_name, pod in pods(name).items():
        assert pod["securityContext"]["runAsNonRoot"] is True, pod_name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        for one in (*pod["containers"], *pod.get("initContainers", [])):
            context = one["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            assert set(one["resources"]["requests"]) == {"cpu", "memory"}
            assert set(one["resources"]["limits"]) == {"memory"}
            assert [it["mountPath"] for it in one["volumeMounts"]] == ["/tmp"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_pod_requests_what_was_measured(name: str) -> None:
    measured = report.read_json("sizes")["sizes"]
    for duty, deployment in deployments(name).items():
        (one,) = deployment["spec"]["template"]["spec"]["containers"]
        cpu, memory = request_of(measured[duty])
        assert one["resources"]["requests"] == {"cpu": f"{cpu}m", "memory": f"{memory}Mi"}, duty
        if duty in CHILDREN:
            assert one["command"][one["command"].index("-c") + 1] == str(CHILDREN[duty])


@pytest.mark.parametrize("name", OVERLAYS)
def test_secrets_are_referred_to_and_only_the_ingress_has_the_key(name: str) -> None:
    assert not [key for key in objects(name) if key[0] == "Secret"]
    for duty, deployment in deployments(name).items():
        (one,) = deployment["spec"]["template"]["spec"]["containers"]
        given = {it["name"]: it for it in one["env"]}
        secret = {it: value["valueFrom"]["secretKeyRef"]["name"] for it, value in given.items() if "valueFrom" in value}
        if duty == "ingress":
            assert secret == {"REDIS_URL": "webhook-ingress", "SECRETS_KEY": "webhook-ingress"}
            assert given["INGRESS_PORT"]["value"] == str(one["ports"][0]["containerPort"])
        else:
            runs_handlers = duty in {"handlers", "express"}
            expected = {"REDIS_URL", "DATABASE_URL"} | ({"HANDLER_DATABASE_URL"} if runs_handlers else set())
            assert secret == dict.fromkeys(expected, "webhook-workers")


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_eviction_leaves_an_ingress_and_a_rollout_all_of_them(name: str) -> None:
    scaler = objects(name)["HorizontalPodAutoscaler", "webhook-ingress"]["spec"]
    assert scaler["minReplicas"] >= 2
    assert objects(name)["PodDisruptionBudget", "webhook-ingress"]["spec"]["maxUnavailable"] == 1
    rolling = deployments(name)["ingress"]["spec"]["strategy"]["rollingUpdate"]
    assert rolling["maxUnavailable"] == 0
    for duty, deployment in deployments(name).items():
        if deployment["spec"].get("replicas", 2) > 1:  # without: as many as an autoscaler says
            assert ("PodDisruptionBudget", f"webhook-{duty}") in objects(name)


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_pod_is_named_by_a_network_policy_beside_the_one_that_forbids_all(name: str) -> None:
    policies = [it["spec"] for (kind, _), it in objects(name).items() if kind == "NetworkPolicy"]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies
    named = [
        value
        for it in policies
        for value in (
            *it["podSelector"].get("matchLabels", {}).values(),
            *(value for each in it["podSelector"].get("matchExpressions", []) for value in each["values"]),
        )
    ]
    assert {f"webhook-{duty}" for duty in DUTIES} | {"webhook-migrate"} == set(named)
