"""The command `pipeline send`: signed events, posted as the provider would."""

import math
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import typer

from deploy.cli.arguments import Provider, TenantName, existing_file
from deploy.cli.connections import database_schema, database_url, ingress_url
from deploy.cli.errors import CommandError
from deploy.cli.load_generator import Answer, post_many
from deploy.cli.output import emit, progress, wants_json
from deploy.cli.signed_requests import prepare_requests
from deploy.cli.waiting import Seen, follow
from workers.store.stats import Fate

_WITH_A_BAR: Final = 50
"""Runs of so many events or more show a progress bar, on a terminal."""
_MEANINGS: Final = {
    Fate.DEAD: "see `pipeline deliveries list --state dead`",
    Fate.CANCELLED: "by hand",
    Fate.REJECTED: "see `pipeline events list --state rejected`",
    Fate.UNWANTED: "stored, and no handler asks for them",
    Fate.OPEN: "waiting, running or to be tried again; see `pipeline deliveries list`",
    Fate.NOT_STORED: "not in Postgres so far; see `pipeline stats` for the inbox",
}


def send(
    tenant: TenantName,
    *,
    count: Annotated[int, typer.Option(min=1, help="How many events.")] = 1,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Events per second; without it, as fast as the connections allow.")
    ] = None,
    event: Annotated[
        str | None, typer.Option(help="Event type of the made-up bodies, such as verification.failed or push.")
    ] = None,
    body_file: Annotated[Path | None, existing_file("Send exactly these bytes, each time the same.")] = None,
    provider: Provider = "moveris",
    secret_stdin: Annotated[
        bool,
        typer.Option(
            "--secret-stdin", help="Sign with the secret on standard input, such as a public key's private one."
        ),
    ] = False,
    label: Annotated[
        str | None, typer.Option(help="Sign with this secret; by default with the newest that may sign.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="Where the ingress is, such as https://hooks.example.com; by default the running stack's."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Also wait until all are handled.")] = False,
    patience: Annotated[
        float, typer.Option(min=0.1, help="With --wait: give up when nothing has changed for so many seconds.")
    ] = 120.0,
    connections: Annotated[int, typer.Option(min=1, max=500, help="Connections open at once.")] = 32,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that one answer may take.")] = 10.0,
    ids_file: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the id of each acknowledged event to this file.")
    ] = None,
) -> None:
    """Send signed events to a tenant's endpoint, as the provider would, a fresh session each.

    Prints how many were acknowledged and in what time, counted from when each was due.
    Ends with status 1 if not all were acknowledged or, with --wait, not all handled; Ctrl-C ends it early.

    Examples:
        pipeline send demo
        pipeline send demo --count 2000 --rate 200 --wait
        pipeline send demo --event verification.failed
        pipeline send acme --provider github --event pull_request.opened
        pipeline send demo --body-file body.json --count 5   (one event, four duplicates)
    """
    path, make = prepare_requests(
        tenant, provider, label=label, event=event, body_file=body_file, secret_stdin=secret_stdin
    )
    target = _target(url or ingress_url(), path)
    started = time.monotonic()
    answers: list[Answer] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # told what came of it so far, like by Ctrl-C
    with (
        suppress(KeyboardInterrupt),
        progress(is_hidden=count < _WITH_A_BAR) as bar,
        ids_file.open("w") if ids_file else nullcontext() as ids,
    ):
        found = post_many(target, make, count=count, rate=rate, connections=connections, timeout=timeout)
        for answer in bar.track(found, total=count, description="sending"):
            answers.append(answer)
            if ids and answer.id:
                print(answer.id, file=ids, flush=True)
            if wants_json():
                row = asdict(answer)
                emit([row | {"milliseconds": round(row.pop("seconds") * 1000, 3)}])
    summary = _summarize(answers, time.monotonic() - started)
    if len(answers) < count:
        print(f"pipeline: stopped after {len(answers)} of {count}", file=sys.stderr)
    if not wants_json():
        _print_answers(summary, answers, rate)
    good = summary["acknowledged"] == count
    if wait and summary["acknowledged"] and len(answers) == count:
        seen = _wait([it.id for it in sorted(answers, key=lambda it: it.number) if it.id], patience)
        seconds = time.monotonic() - started
        fates = {fate.value: seen.fates[fate] for fate in Fate} | {"unknown": seen.unknown}
        summary |= {"fates": fates, "waited_seconds": round(seconds, 3)}
        good = good and seen.fates[Fate.HANDLED] == summary["acknowledged"]
        if not wants_json():
            _print_fates(seen, seconds)
    if wants_json():
        emit([{"summary": summary}])
    if not good:
        raise typer.Exit(1)


def _target(url: str, path: str) -> str:
    """Return where to post; a URL that names an endpoint already is taken as it is."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise CommandError(f"{url!r} is no URL to post to; write http://host:8000")
    return url if "/webhooks/" in parts.path else url.rstrip("/") + path


def _summarize(answers: Sequence[Answer], seconds: float) -> dict[str, Any]:
    """Return the figures of a run; times are those of acknowledged events."""
    times = sorted(answer.seconds * 1000 for answer in answers if answer.id)
    refused = Counter(f"{answer.status or 'no answer'} {answer.code}" for answer in answers if not answer.id)
    figures: dict[str, Any] = {"sent": len(answers), "acknowledged": len(times), "seconds": round(seconds, 3)}
    figures["per_second"] = round(len(answers) / seconds, 1)
    for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99), ("max_ms", 1.0)):
        figures[name] = round(times[math.ceil(share * len(times)) - 1], 2) if times else None
    return figures | {"refused": dict(refused)}


def _print_answers(summary: Mapping[str, Any], answers: Sequence[Answer], rate: float | None) -> None:
    print("acknowledged {acknowledged} of {sent} in {seconds:.1f} s ({per_second:.0f}/s)".format_map(summary))
    if summary["acknowledged"] == 1 == summary["sent"]:
        print(f"event        {answers[0].id}; its history: pipeline events show {answers[0].id}")
    if summary["acknowledged"]:
        print("times        p50 {p50_ms} ms, p99 {p99_ms} ms, max {max_ms} ms".format_map(summary))
    for reason, number in summary["refused"].items():
        print(f"refused      {number}: {reason}")
    if details := Counter(answer.detail for answer in answers if answer.detail):
        print(f"             {details.most_common(1)[0][0]}")
    if rate is not None and summary["sent"] > _WITH_A_BAR and summary["per_second"] < 0.9 * rate:
        print(f"pipeline: slower than the asked {rate:g}/s: raise --connections, or answers take long", file=sys.stderr)


def _wait(ids: Sequence[UUID], patience: float) -> Seen:
    seen = Seen()
    with progress(is_hidden=len(ids) < _WITH_A_BAR) as bar:
        task = bar.add_task("handling", total=len(ids))
        for seen in follow(database_url(), ids, schema=database_schema(), patience=patience):
            dead = f", {seen.fates[Fate.DEAD]} dead" if seen.fates[Fate.DEAD] else ""
            bar.update(task, completed=seen.finished, description=f"handling{dead}")
    return seen


def _print_fates(seen: Seen, seconds: float) -> None:
    print(f"handled      {seen.fates[Fate.HANDLED]} after {seconds:.1f} s in all")
    for fate, meaning in _MEANINGS.items():
        if seen.fates[fate]:
            print(f"{fate.value.replace('_', ' '):12} {seen.fates[fate]}: {meaning}")
    if seen.unknown:
        print(f"unknown      {seen.unknown}: {seen.error or 'Postgres was not asked'}")
