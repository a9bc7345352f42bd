"""The Kubernetes manifests, as Kustomize renders them: against Kubernetes' schemas, and against compose.yaml."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from deploy.health import DUTIES
from tests.deploy.checks import ROOT, needs_checks, read_yaml, run_tool

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = ROOT / "deploy" / "kubernetes"
COMPOSE = ROOT / "deploy" / "docker" / "compose.yaml"
OVERLAYS = ["overlays/small", "overlays/production"]
ALL = [*OVERLAYS, "migrate/pre", "migrate/post"]

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
    rendered = tmp_path / "rendered.yaml"
    rendered.write_text(render(name))
    done = run_tool("kubernetes-validate", "--strict", rendered)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count(" passed ") == len(objects(name))


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
        assert one.get("command") == service.get("command"), duty
        assert one["image"].endswith(f"webhook-pipeline-{service['build']['target']}:0.2.0")
        assert pod["terminationGracePeriodSeconds"] >= int(service["stop_grace_period"].removesuffix("s")), duty


@pytest.mark.parametrize("phase", ["pre", "post"])
def test_each_phase_of_the_migrations_has_a_job(phase: str) -> None:
    (pod,) = pods(f"migrate/{phase}").values()
    assert pod["containers"][0]["args"] == ["migrate", "--phase", phase]
    assert ("Job", f"webhook-migrate-{phase}") in objects(f"migrate/{phase}")


@pytest.mark.parametrize("name", OVERLAYS)
def test_express_workers_have_a_quarter_of_the_processes_of_handler_workers(name: str) -> None:
    def processes(duty: str) -> int:
        deployment = deployments(name)[duty]
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
        for one in pod["containers"]:
            context = one["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            assert set(one["resources"]["requests"]) == {"cpu", "memory"}
            assert set(one["resources"]["limits"]) == {"memory"}
            assert [it["mountPath"] for it in one["volumeMounts"]] == ["/tmp"]


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
        if deployment["spec"]["replicas"] > 1:
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
