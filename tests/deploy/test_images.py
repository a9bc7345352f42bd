"""The Containerfile and compose.yaml: linted, and their own commands run as an engine would run them."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deploy.console.settings import ConsoleSettings
from shared.settings import load
from tests.conftest import SECRETS_KEY
from tests.deploy import container
from tests.deploy.checks import needs_checks, read_yaml, run_tool
from tests.ingress_process import wait_for
from tests.launching import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.deploy.container import Images

ROOT = container.ROOT
COMPOSE = ROOT / "deploy" / "docker" / "compose.yaml"
OURS = ("ingress-1", "ingest", "handlers", "express", "housekeeping", "beat", "exporter", "console", "flower")
SERVERS = {"postgres", "redis"}
MONITORING = {"prometheus", "grafana"}

pytestmark = needs_checks
needs_namespaces = pytest.mark.skipif(not container.IS_POSSIBLE, reason=container.REASON)


@cache
def services() -> dict[str, Any]:
    (document,) = read_yaml(COMPOSE.read_text())
    return dict(document["services"])


def service_links(port: int) -> dict[str, str]:
    """The variables with which Kubernetes announces Services of these names to every container."""
    found: dict[str, str] = {}
    for name in ("INGRESS", "CONSOLE", "FLOWER", "REDIS", "POSTGRES"):
        found |= {
            f"{name}_SERVICE_HOST": "10.0.0.7",
            f"{name}_SERVICE_PORT": str(port),
            f"{name}_PORT": f"tcp://10.0.0.7:{port}",
            f"{name}_PORT_{port}_TCP": f"tcp://10.0.0.7:{port}",
        }
    return found


def test_hadolint_finds_nothing_wrong_in_the_containerfile() -> None:
    done = run_tool("hadolint", container.CONTAINERFILE)
    assert done.returncode == 0, done.stdout


def test_compose_yaml_keeps_to_the_schema_of_compose() -> None:
    done = run_tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)
    assert done.returncode == 0, done.stdout


def test_every_service_waits_for_a_migration_that_succeeded() -> None:
    for name, service in services().items():
        if name not in SERVERS | MONITORING | {"migrate"}:
            assert service["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}, name
    assert services()["migrate"]["restart"] == "no"


def test_every_service_says_how_long_it_may_stop_and_how_its_health_is_seen() -> None:
    for name, service in services().items():
        if name != "migrate":
            assert service["stop_grace_period"].endswith("s"), name
            assert service["healthcheck"]["test"][0] == "CMD", name
            assert service["restart"] == "unless-stopped", name


def test_every_service_of_ours_is_without_rights_on_a_read_only_root() -> None:
    for name, service in services().items():
        if name not in SERVERS:
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert [place.partition(":")[0] for place in service["tmpfs"]] == ["/tmp"], name


def test_redis_has_what_the_guarantees_rest_on() -> None:
    words = services()["redis"]["command"]
    given = dict(zip(words[1::2], words[2::2], strict=True))
    assert given["--appendonly"] == "yes"
    assert given["--appendfsync"] == "always"
    assert given["--maxmemory-policy"] == "noeviction"


def test_the_ingress_reaches_no_postgres_and_only_it_is_given_the_key() -> None:
    for name, service in services().items():
        is_ingress = name.startswith("ingress")
        assert ("SECRETS_KEY" in service.get("environment", {})) == is_ingress, name
        assert not (is_ingress and "store" in service["networks"])


def test_every_service_has_its_image_from_the_containerfile() -> None:
    stages = container.read_stages()
    for name, service in services().items():
        if name not in SERVERS | MONITORING:
            assert service["build"]["target"] in stages, name
            assert (COMPOSE.parent / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    assert set(container.TARGETS) <= set(stages)


def test_the_console_is_published_where_it_listens_and_where_its_links_lead() -> None:
    port = load(ConsoleSettings, {"REDIS_URL": "redis://redis/0", "DATABASE_URL": "postgresql://postgres/"}).port
    assert services()["console"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    environ = services()["console"]["environment"]
    assert environ["CONSOLE_URL"] == f"${{CONSOLE_URL:-http://127.0.0.1:{port}}}"
    (flower,) = services()["flower"]["ports"]
    assert environ["CONSOLE_FLOWER_URL"] == f"${{CONSOLE_FLOWER_URL:-http://{flower.rpartition(':')[0]}}}"


def test_monitoring_is_a_profile_with_our_rules_and_our_dashboard() -> None:
    assert {name for name, it in services().items() if "profiles" in it} == MONITORING
    for name in MONITORING:
        mounts = [it.split(":") for it in services()[name]["volumes"] if it.startswith(".")]
        assert all((COMPOSE.parent / source).exists() and mode == "ro" for source, _, mode in mounts)
    (ours,) = read_yaml((COMPOSE.parent / "prometheus.yml").read_text())
    (shipped,) = read_yaml((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert [it["job_name"] for it in ours["scrape_configs"]] == [it["job_name"] for it in shipped["scrape_configs"]]
    assert {key: value for key, value in ours.items() if key != "scrape_configs"} == {
        key: value for key, value in shipped.items() if key != "scrape_configs"
    }
    for job in ours["scrape_configs"]:
        for target in job["static_configs"][0]["targets"]:
            host, _, port = target.partition(":")
            assert "metrics" in services()[host]["networks"]
            assert port == services()[host]["environment"].get("INGRESS_METRICS_PORT", "9808")
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = read_yaml((folder / "datasources" / "prometheus.yml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    (dashboards,) = read_yaml((folder / "dashboards" / "pipeline.yml").read_text())
    shown = dashboards["providers"][0]["options"]["path"]
    assert f"../grafana/pipeline.json:{shown}/pipeline.json:ro" in services()["grafana"]["volumes"]


@pytest.fixture(scope="module")
def images() -> Iterator[Images]:
    home = Path(tempfile.mkdtemp(prefix="pipeline-images-", dir="/var/tmp"))
    home.chmod(0o755)
    try:
        yield container.build(home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@needs_namespaces
@pytest.mark.long  # the packages of three images are installed first
@pytest.mark.timeout(400)
def test_an_image_holds_what_its_lock_file_says_and_no_build_tools(images: Images) -> None:
    for target in container.TARGETS:
        (packages,) = images.venv(target).glob("lib/python*/site-packages")
        names = {path.name.partition("-")[0].lower() for path in packages.glob("*.dist-info")}
        assert "webhook_pipeline" in names
        assert not names & {"pip", "setuptools", "wheel", "pytest"}, target
        assert ("celery" in names) == (target != "ingress")
        assert ("starlette" in names) == (target in {"ingress", "tools"})
        assert ("flower" in names) == (target == "tools")
        assert ("argon2_cffi" in names) == (target == "tools")


@needs_namespaces
@pytest.mark.long  # the packages of three images are installed first
@pytest.mark.timeout(400)
def test_every_service_runs_by_its_own_command_becomes_healthy_and_ends_at_sigterm_in_its_time(
    images: Images, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    stages = container.read_stages()
    servers = {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "SECRETS_KEY": SECRETS_KEY}
    servers |= {"FLOWER_USER": "somebody", "FLOWER_PASSWORD": "secret", "HANDLERS": "workers.handlers.example"}
    servers |= {"REDIS_PREFIX": "webhooks:", "PIPELINE_ENVIRONMENT": "test"}
    servers |= {"INGRESS_METRICS_PORT": str(free_port()), "INGRESS_URL": ""}
    servers |= {"CONSOLE_URL": "https://console.example.com", "CONSOLE_FLOWER_URL": "https://flower.example.com"}
    add_user = [*stages["tools"].last("ENTRYPOINT"), "console", "add-user", "alice", "--role", "admin", "--no-password"]
    with images.run("tools", add_user, environ=servers, log=tmp_path / "add-user.log") as one:
        assert one.process.wait(60) == 0, (tmp_path / "add-user.log").read_text()
    port, flower_port = free_port(), free_port()
    with ExitStack() as stack:
        running = {}
        for name in OURS:
            service = services()[name]
            target = service["build"]["target"]
            command = [*service.get("entrypoint", []), *(service.get("command", stages[target].last("CMD")))]
            environ = service_links(port) | {
                "INGRESS_PORT": str(port),
                "FLOWER_PORT": str(flower_port),
                "EXPORTER_PORT": str(free_port()),
                "CONSOLE_PORT": str(free_port()),
            }
            environ |= {key: servers.get(key, value) for key, value in service["environment"].items()}
            log = tmp_path / f"{name}.log"
            running[name] = stack.enter_context(images.run(target, command, environ=environ, log=log))
        for name, one in running.items():
            health = services()[name]["healthcheck"]["test"][1:]
            health = [word.replace("127.0.0.1:5555", f"127.0.0.1:{flower_port}") for word in health]

            def is_healthy(one: container.Container = one, name: str = name, health: list[str] = health) -> bool:
                assert one.process.poll() is None, (tmp_path / f"{name}.log").read_text()
                return one.execute(health).returncode == 0

            wait_for(is_healthy, seconds=40)
            status = Path(f"/proc/{one.pid}/status").read_text()
            assert "\nUid:\t10001\t10001" in status
            assert "\nCapEff:\t0000000000000000" in status
        for one in running.values():
            os.kill(one.pid, signal.SIGTERM)
        told = time.monotonic()
        for name, one in running.items():
            patience = int(services()[name]["stop_grace_period"].removesuffix("s"))
            one.process.wait(max(0.1, told + min(patience, 30) - time.monotonic()))


@needs_namespaces
@pytest.mark.long  # the packages of three images are installed first
@pytest.mark.timeout(400)
def test_the_console_of_the_image_does_not_start_without_users_and_says_how_one_is_added(
    images: Images, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    environ = {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "CONSOLE_HOST": "192.0.2.1"}
    with images.run("tools", services()["console"]["entrypoint"], environ=environ, log=tmp_path / "log") as one:
        assert one.process.wait(60) == 2
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert "pipeline console add-user" in line


@needs_namespaces
@pytest.mark.long  # the packages of three images are installed first
@pytest.mark.timeout(400)
def test_the_migration_of_the_image_says_what_is_wrong_and_fails_when_it_cannot_be_done(
    images: Images, tmp_path: Path
) -> None:
    stages = container.read_stages()
    command = [*stages["tools"].last("ENTRYPOINT"), *services()["migrate"]["command"]]
    environ = service_links(8000) | {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}
    with images.run("tools", command, environ=environ, log=tmp_path / "log") as one:
        assert one.process.wait(60) == 1
    assert len((tmp_path / "log").read_text().splitlines()) == 1
