"""The processes of a run: started, waited for until they are ready, ended whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.error import URLError

from deploy.local.services import pipeline_services
from deploy.local.settings import StackSettings
from shared.settings import load as load_settings
from tests.launching import open_url, spawn
from workers.registration import Handler
from workers.store import catalogue
from workers.store.connect import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from deploy.local.service import Server
    from tests.benchmarks.ground import Place

ROOT: Final = Path(__file__).parents[2]
READY_SECONDS: Final = 60.0


@contextmanager
def run_server(server: Server, home: Path) -> Iterator[int]:
    """Run an embedded server; yield its process id."""
    log = home / f"{server.name}.log"
    process = spawn(server.argv, log=log, user=server.uid, at_our_end=server.stop_signal)
    try:
        _wait(server.is_ready, process, server.name, log)
        yield process.pid
    finally:
        _end(process, server.stop_signal, 20)


@contextmanager
def run_ours(
    place: Place, *names: str, ingress_port: int = 0, slots: int = 4, drains: int = 2, **more: object
) -> Iterator[dict[str, int]]:
    """Run services of the pipeline exactly as `pipeline up` runs them; yield the process ids by name.

    Args:
        place: database and Redis.
        names: of the services; beat and housekeeping are added where workers are.
        ingress_port: of the ingress.
        slots: processes that run handlers.
        drains: processes that store events.
        more: environment.
    """
    wanted = {*names, "housekeeping", "beat"} if set(names) - {"ingress"} else set(names)
    environ = place.environ(
        HANDLER_WORKERS=slots, INGEST_WORKERS=drains, HANDLER_SLOTS=slots, INGEST_SLOTS=drains, **more
    )
    settings = load_settings(StackSettings, {**environ, "INGRESS_PORT": str(ingress_port or 1)})
    services = [service for service in pipeline_services(environ, settings) if service.name in wanted]
    if "ingest" in names and "handlers" not in names:
        announce(place)
    with ExitStack() as stack:
        processes = {
            service.name: stack.enter_context(
                started(
                    service.argv,
                    place.home / f"{service.name}.log",
                    # every service of an earlier revision asks for the key
                    service.environ if place.tree == ROOT else {**environ, **(service.environ or {})},
                    service.stop_signal,
                    tree=place.tree,
                )
            )
            for service in services
        }
        for service in services:
            if service.name != "beat":
                _wait(service.is_ready, processes[service.name], service.name, place.home / f"{service.name}.log")
        if "handlers" in names and place.tree == ROOT:  # another revision may announce nothing
            log = place.home / "handlers.log"
            _wait(lambda: _is_announced(place), processes["handlers"], "the announcement of the handlers", log)
        yield {name: process.pid for name, process in processes.items()}


def announce(place: Place) -> None:
    """Have deliveries made of every event, though no worker runs their handler."""
    with connect(place.database_url, name="benchmark") as connection:
        catalogue.announce(connection, [Handler(name="bench.nothing", function=print)], code_version="benchmark")


def _is_announced(place: Place) -> bool:
    return bool(place.query("SELECT count(*) AS n FROM registered_handlers")["n"])


@contextmanager
def run_web(place: Place, app: str, port: int, **more: object) -> Iterator[int]:
    """Run an ASGI application under uvicorn with uvloop and httptools; yield its process id."""
    argv = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--loop", "uvloop", "--http", "httptools"]
    argv += ["--no-access-log", "--log-level", "warning", "--timeout-keep-alive", "75"]
    with started(argv, place.home / "web.log", place.environ(**more)) as process:
        _wait(lambda: _answers(port), process, app, place.home / "web.log")
        yield process.pid


@contextmanager
def run_celery(place: Place, app: str, **more: object) -> Iterator[int]:
    """Run a Celery worker as the tutorial has it."""
    argv = [sys.executable, "-m", "celery", "-A", app, "worker", "--loglevel=INFO"]
    with started(argv, place.home / "celery.log", place.environ(**more)) as process:
        yield process.pid


@contextmanager
def started(
    argv: Sequence[str],
    log: Path,
    environ: Mapping[str, str] | None,
    stop_signal: signal.Signals = signal.SIGTERM,
    *,
    tree: Path = ROOT,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv, cwd=tree, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        _end(process, stop_signal, 6)


def load(module: str, **options: object) -> dict[str, Any]:
    """Run a load generator, `closed` or `opened`, and return what it printed."""
    argv = [sys.executable, "-m", f"tests.benchmarks.{module}"]
    for name, value in options.items():
        argv += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    if result["refused"]:
        raise RuntimeError(f"{result['refused']} requests were refused: {argv}")
    return result


def _answers(port: int) -> bool:
    try:
        with open_url(f"http://127.0.0.1:{port}/", timeout=1):
            return True
    except URLError as error:
        return hasattr(error, "code")  # 404: it serves
    except OSError:
        return False


def _wait(is_ready: Callable[[], bool], process: subprocess.Popen[bytes], name: str, log: Path) -> None:
    ends = time.monotonic() + READY_SECONDS
    while not is_ready():
        if process.poll() is not None or time.monotonic() > ends:
            raise RuntimeError(f"{name} did not start: {log.read_text(errors='replace').strip()[-1000:]}")
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes], stop_signal: signal.Signals, patience: float) -> None:
    """Ask, wait, then kill all of its session."""
    process.send_signal(stop_signal)
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
