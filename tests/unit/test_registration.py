"""What a handler may be, and what a worker refuses to start with."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from workers import registration
from workers.errors import RegistrationError
from workers.registration import Handler, Handlers, handler, load, on_process_start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "_registered", {})
    monkeypatch.setattr(registration, "_start_functions", {})


def nothing(event: object, delivery: object) -> None:
    """A handler."""


def test_a_registered_handler_has_the_defaults() -> None:
    handler("acme.run", event="thing.happened", tenant="acme")(nothing)
    (made,) = load([])
    assert (made.name, made.event, made.tenant, made.provider) == ("acme.run", "thing.happened", "acme", "*")
    assert (made.timeout, made.max_attempts, made.serial_by) == (30.0, 10, None)


def test_a_handler_may_ask_for_one_delivery_of_a_subject_at_a_time() -> None:
    handler("acme.run", serial_by="subject")(nothing)
    (made,) = load([])
    assert made.serial_by == "subject"


def test_settings_are_a_pydantic_model() -> None:
    with pytest.raises(RegistrationError, match="settings is a pydantic model, not"):
        handler("acme.run", settings={"crm_url": "text"})(nothing)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("name", "parameters", "culprit"),
    [
        ("acme.run", {"retries": 3}, "'retries'"),
        ("acme.run", {"max_attempts": 0}, "max_attempts"),
        ("acme.run", {"timeout": "soon"}, "timeout"),
        ("acme.run", {"timeout": 0}, "timeout"),
        ("acme.run", {"schedule": [1, -1]}, "schedule"),
        ("acme.run", {"schedule": 5}, "schedule"),
        ("acme.run", {"event": 5}, "event"),
        ("acme.run", {"serial_by": "tenant"}, "serial_by"),
        ("nodot", {}, "'nodot'"),
        ("ingest.drain", {}, "'ingest.drain'"),
    ],
)
def test_a_wrong_parameter_is_named(name: str, parameters: dict[str, Any], culprit: str) -> None:
    with pytest.raises(RegistrationError, match=culprit) as caught:
        handler(name, **parameters)(nothing)
    assert "test_registration.nothing" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_function_of_other_arguments_is_refused() -> None:
    with pytest.raises(RegistrationError, match="two arguments"):
        handler("acme.run")(lambda event: None)  # type: ignore[type-var] # what is refused


def test_a_function_that_yields_is_refused() -> None:
    def plain(event: object, delivery: object) -> Iterator[None]:
        yield

    async def asynchronous(event: object, delivery: object) -> AsyncIterator[None]:
        yield

    def lifespan() -> Iterator[None]:
        yield

    for function in (plain, asynchronous):
        with pytest.raises(RegistrationError, match=rf"'acme.run' .*{function.__name__}\): it yields"):
            handler("acme.run")(function)
    with pytest.raises(RegistrationError, match=r"on_process_start .*lifespan\): it yields"):
        on_process_start(lifespan)


def test_two_handlers_of_one_name_are_refused() -> None:
    handler("acme.run")(nothing)
    with pytest.raises(RegistrationError, match="two handlers are named"):
        handler("acme.run")(lambda event, delivery: None)


def test_functions_for_the_start_of_a_process_are_kept_in_order() -> None:
    async def open_pool() -> None: ...

    def open_client(url: str = "http://127.0.0.1") -> None: ...

    on_process_start(open_pool)
    on_process_start(open_client)
    assert load([]).on_process_start == (open_pool, open_client)


def test_a_function_for_the_start_of_a_process_that_needs_an_argument_is_refused() -> None:
    with pytest.raises(RegistrationError, match=r"on_process_start \(.*nothing\): it is called without arguments"):
        on_process_start(nothing)  # type: ignore[type-var] # what is refused


def test_a_module_that_does_not_import_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_handlers.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RegistrationError, match=r"'broken_handlers' does not import: ModuleNotFoundError.*:1\)"):
        load(["broken_handlers"])
    assert "broken_handlers" not in sys.modules


def names_of(handlers: list[Handler], provider: str, event: str | None, tenant: str) -> list[str]:
    return [it.name for it in handlers if it.wants(provider, event, tenant)]


def test_an_event_is_wanted_by_those_who_ask_for_it() -> None:
    handlers = [
        Handler(name="all.events", function=nothing),
        Handler(name="acme.any", function=nothing, tenant="acme"),
        Handler(name="acme.one", function=nothing, tenant="acme", event="thing.happened"),
        Handler(name="all.github", function=nothing, provider="github"),
    ]
    assert names_of(handlers, "moveris", "thing.happened", "acme") == ["all.events", "acme.any", "acme.one"]
    assert names_of(handlers, "github", "ping", "other") == ["all.events", "all.github"]


def test_a_star_at_the_end_of_an_event_stands_for_anything() -> None:
    handlers = [
        Handler(name="all.pulls", function=nothing, event="pull_request.*"),
        Handler(name="all.orders", function=nothing, event="orders/*"),
    ]
    assert names_of(handlers, "github", "pull_request.opened", "acme") == ["all.pulls"]
    assert names_of(handlers, "github", "pull_request_review.submitted", "acme") == []
    assert names_of(handlers, "shopify", "orders/create", "acme") == ["all.orders"]
    assert names_of(handlers, "shopify", None, "acme") == []


def test_the_code_version_changes_with_the_file_and_the_digest_with_what_is_asked_for() -> None:
    one, other = (Handler(name="acme.one", function=nothing, event=event) for event in ("a", "b"))
    assert one.digest != other.digest
    assert one.digest == Handler(name="acme.one", function=print, event="a").digest
    assert Handlers([one]).code_version == Handlers([other]).code_version != Handlers().code_version
