"""The deployments, each installed alone into a fresh environment."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import venv
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from cryptography.fernet import Fernet

from tests.launching import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "deploy" / "locks"


PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, built from a copy of its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "__pycache__", "tests")
    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*PIP, *build, str(folder / "source")], check=True)
    (built,) = folder.glob("*.whl")
    return built


def install(folder: Path, wheel: Path, extra: str) -> Path:
    """Install the project with one extra and the locked versions; return the environment's Python."""
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    pip = [*PIP, "--python", str(python)]
    locked = ["--no-deps", "--require-hashes", "-r", str(LOCKS / f"{extra}.txt")]
    subprocess.run([*pip, "install", "--quiet", "--no-compile", *locked], check=True)
    # with no index, this fails if the lock lacks anything that the extra asks for
    subprocess.run([*pip, "install", "--quiet", "--no-compile", "--no-index", f"{wheel}[{extra}]"], check=True)
    return python


def imports(python: Path, module: str) -> bool:
    return subprocess.run([str(python), "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


@contextmanager
def started(python: Path, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Run a service of that environment; its output goes through standard error."""
    clean = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    process = subprocess.Popen(
        [str(python), *arguments],
        env={**clean, "SECRETS_KEY": Fernet.generate_key().decode(), **environ},
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    watchdog = threading.Timer(200, lambda: os.killpg(process.pid, signal.SIGKILL))
    watchdog.start()
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()
        watchdog.cancel()


def wait_until_alive(process: subprocess.Popen[str], port: str) -> None:
    """Wait until `/livez` answers 200."""
    while True:
        assert process.poll() is None, process.communicate()[0]
        try:
            assert httpx.get(f"http://127.0.0.1:{port}/livez", timeout=2).status_code == 200
            break
        except httpx.TransportError:
            time.sleep(0.05)


@pytest.mark.long
def test_the_ingress_installs_alone_and_starts(tmp_path: Path, wheel: Path, redis_url: str) -> None:
    python = install(tmp_path, wheel, "ingress")
    assert not [module for module in ("celery", "kombu", "psycopg", "pydantic", "flower") if imports(python, module)]
    port = str(free_port())
    with started(python, "-m", "ingress", REDIS_URL=redis_url, INGRESS_PORT=port) as process:
        wait_until_alive(process, port)


@pytest.mark.long
def test_the_workers_install_alone_and_start(tmp_path: Path, wheel: Path, redis_url: str, database_url: str) -> None:
    python = install(tmp_path, wheel, "workers")
    assert not [module for module in ("starlette", "uvicorn", "httptools", "flower") if imports(python, module)]
    worker = (
        "-m",
        "celery",
        "-A",
        "workers.app",
        "worker",
        "--queues",
        "ingest,express,handlers,housekeeping",
        "-c",
        "1",
    )
    settings = {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "HANDLERS": "workers.handlers.example"}
    with started(python, *worker, **settings) as process:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line)
            if " ready." in line:
                break
        else:
            pytest.fail("".join(lines))
    env = {"PATH": os.environ["PATH"], "DATABASE_URL": database_url, "REDIS_URL": redis_url}
    pipeline = [str(python.with_name("pipeline")), "env"]
    assert subprocess.run(pipeline, env=env, capture_output=True, text=True, check=True).stdout.splitlines() == [
        f"DATABASE_URL={database_url}",
        f"REDIS_URL={redis_url}",
    ]


@pytest.mark.long
def test_the_console_installs_alone_shows_a_page_and_lets_its_first_user_in(
    tmp_path: Path, wheel: Path, redis_url: str, database_url: str
) -> None:
    python = install(tmp_path, wheel, "console")
    assert not imports(python, "flower")
    port = str(free_port())
    servers = {"REDIS_URL": redis_url, "DATABASE_URL": database_url}
    with started(python, "-m", "deploy.console", CONSOLE_PORT=port, **servers) as process:
        wait_until_alive(process, port)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as browser:
            assert "<h1>Now</h1>" in browser.get("/").text
            for path in ("/static/console.css", "/static/console.js"):
                assert browser.get(path).status_code == 200
            add_user = [str(python.with_name("pipeline")), "console", "add-user", "alice", "--role", "admin"]
            environ = {"PATH": os.environ["PATH"], **servers}
            subprocess.run(
                [*add_user, "--password-stdin"], env=environ, input="correct horse battery\n", text=True, check=True
            )
            assert browser.get("/").headers["location"] == "/sign-in"
            typed = {"name": "alice", "password": "correct horse battery"}
            assert browser.post("/sign-in", data=typed, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 303
            assert browser.get("/").status_code == 200


def test_up_without_the_embedded_servers_installed_says_what_to_install() -> None:
    script = "import sys; sys.modules['psutil'] = None; from deploy.cli.main import main; sys.argv = ['', 'up']; main()"
    outcome = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert outcome.returncode == 1
    assert "pip install '.[local]'" in outcome.stderr
    assert "Traceback" not in outcome.stderr
