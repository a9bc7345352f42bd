"""Flower's launcher and how it shows a task."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy.flower.__main__ import command
from deploy.flower.settings import FlowerSettings
from deploy.flower.shown_task import format_task
from deploy.local.services import pipeline_services
from deploy.local.settings import StackSettings
from shared.settings import SettingError, load

EVENT = "01a20aca-0b75-71d9-8504-f5771e6646d9"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_on_the_loopback_it_needs_no_password(address: str) -> None:
    argv, secret = command(load(FlowerSettings, {"FLOWER_ADDRESS": address}))
    assert f"--address={address}" in argv
    assert not secret


@pytest.mark.parametrize("empty", ["", " ", "\r\n"])
def test_an_empty_address_is_the_loopback_and_not_every_address(empty: str) -> None:
    argv, _ = command(load(FlowerSettings, {"FLOWER_ADDRESS": empty}))
    assert "--address=127.0.0.1" in argv


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1", "flower.internal"])  # noqa: S104 - refused
@pytest.mark.parametrize("given", [{}, {"FLOWER_USER": "ops"}, {"FLOWER_PASSWORD": "x"}])
def test_beyond_the_loopback_it_refuses_to_start_without_a_user_and_a_password(
    address: str, given: dict[str, str]
) -> None:
    with pytest.raises(SettingError, match="set FLOWER_USER and FLOWER_PASSWORD"):
        command(load(FlowerSettings, {"FLOWER_ADDRESS": address, **given}))


def test_the_password_is_not_on_the_command_line() -> None:
    given = {"FLOWER_ADDRESS": "0.0.0.0", "FLOWER_USER": "ops", "FLOWER_PASSWORD": "hunter2"}  # noqa: S104 - allowed so
    argv, secret = command(load(FlowerSettings, given))
    assert not [word for word in argv if "hunter2" in word]
    assert secret == {"FLOWER_BASIC_AUTH": "ops:hunter2"}


def test_a_comma_would_make_two_passwords_of_one_and_is_refused() -> None:
    with pytest.raises(SettingError, match="no comma"):
        command(load(FlowerSettings, {"FLOWER_USER": "ops", "FLOWER_PASSWORD": "a,b"}))


def test_it_stops_no_worker_turns_no_events_on_and_keeps_a_bounded_number_of_tasks() -> None:
    argv, _ = command(load(FlowerSettings, {"FLOWER_MAX_TASKS": "123"}))
    assert {"--read_only=True", "--enable_events=False", "--max_tasks=123", "--persistent=False"} <= set(argv)


def test_whose_event_it_was_stands_beside_the_handlers_name() -> None:
    argv, _ = command(load(FlowerSettings, {}))
    (columns,) = [word for word in argv if word.startswith("--tasks_columns=")]
    assert columns.startswith("--tasks_columns=name,args,state,")


@pytest.mark.parametrize("prefix", ["monitor", "/monitor", "/monitor/"])
def test_a_prefix_is_served_and_asked_for_alike(prefix: str) -> None:
    argv, _ = command(load(FlowerSettings, {"FLOWER_URL_PREFIX": prefix}))
    assert "--url_prefix=monitor" in argv
    stack = load(StackSettings, {"FLOWER_URL_PREFIX": prefix, "FLOWER_PORT": "5566"})
    assert stack.flower_url == "http://127.0.0.1:5566/monitor"


def test_the_housekeeping_worker_shows_what_it_does_except_for_each_sweep() -> None:
    environ = {"REDIS_URL": "redis://127.0.0.1:1/0", "DATABASE_URL": "postgresql://127.0.0.1:1/none"}
    (service,) = [it for it in pipeline_services(environ, load(StackSettings, {})) if it.name == "housekeeping"]
    assert "--task-events" in service.argv
    tasks = (Path(__file__).parents[2] / "workers" / "tasks" / "housekeeping.py").read_text()
    assert '@app.task(name="housekeeping.sweep", send_events=False' in tasks
    (keep_days,) = re.findall(r'@app\.task\(name="housekeeping.keep_days".*\)', tasks)
    assert "send_events" not in keep_days


def test_the_reason_of_a_failure_comes_before_its_place() -> None:
    task = SimpleNamespace(
        args=f"[['acme/{EVENT}', 'globex/{EVENT}']]",
        exception=f"DeliveryFailed('tenant acme, event {EVENT}, attempt 2: ValueError: it says \"no\"')",
    )
    shown = format_task(task)
    assert shown.args == f"acme/{EVENT}, globex/{EVENT}"
    assert shown.exception == f'ValueError: it says "no" (tenant acme, event {EVENT}, attempt 2)'


def test_a_task_of_another_form_is_shown_as_it_is() -> None:
    shown = format_task(SimpleNamespace(args="()", exception="WorkerLostError('signal 9')"))
    assert (shown.args, shown.exception) == ("()", "WorkerLostError('signal 9')")
    assert format_task(SimpleNamespace(args=None, exception=None)).args is None
