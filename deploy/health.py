"""`pipeline health`: whether the processes of this machine or container go on, for probes, systemd and people.

Each process keeps a heartbeat (`shared.heartbeat`). Unhealthy is one whose loop stands still for HEALTH_SECONDS, one
that is gone, and a worker that has a free slot and takes nothing for STUCK_SECONDS while its queue waits: a restart
helps. With Redis or Postgres away every process goes on trying, and none is unhealthy; nor is one that waits for a
person, as for tables of its version, which the line says. The exit code is 0 or 1, and 2
for a question that cannot be answered. `python -m deploy.health` is the same; it imports next to nothing, since probes
run every few seconds.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.heartbeat import Beat, default_folder, read_beats
from shared.settings import HEALTH_SECONDS_ABOUT, HeartbeatSettings, SettingError, folder, load, seconds, setting

DUTIES: Final = ("ingress", "ingest", "handlers", "express", "housekeeping", "beat", "exporter", "console")
HEARTBEATS: Final = "heartbeats"
"""Folder in the data folder of `make run`."""
USAGE: Final = f"usage: pipeline health {'|'.join(DUTIES)}|all"


@dataclass(frozen=True, kw_only=True)
class HealthSettings(HeartbeatSettings):
    """Settings of `pipeline health`."""

    home: Path = setting("PIPELINE_HOME", ".local", folder, "data folder of the stack that `make run` starts")
    health_seconds: float = setting("HEALTH_SECONDS", "60", seconds, HEALTH_SECONDS_ABOUT)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line and exit."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--help"]:
        print(f"{USAGE}\nSettings: HEARTBEAT_DIR, HEALTH_SECONDS; see deploy/SETTINGS.md.")
        sys.exit(0)
    if len(arguments) != 1 or arguments[0] not in {*DUTIES, "all"}:
        sys.stderr.write(f"{USAGE}\n")
        sys.exit(2)
    try:
        settings = load(HealthSettings)
    except SettingError as error:
        sys.stderr.write(f"pipeline health: {error}\n")
        sys.exit(2)
    place = settings.heartbeat_dir or find_folder(settings.home)
    beats = [beat for beat in read_beats(place) if arguments[0] in {*beat.duties, "all"}]
    line, is_healthy = assess(beats, now=time.monotonic(), patience=settings.health_seconds)
    whose = "" if arguments[0] == "all" else f" of {arguments[0]}"
    print(line or f"unhealthy: no heartbeat{whose} in {place}; HEARTBEAT_DIR must be that of the process")
    sys.exit(0 if is_healthy else 1)


def find_folder(home: Path) -> Path:
    """Return the folder of the stack that `make run` starts, or else the one of processes without HEARTBEAT_DIR."""
    local = home / HEARTBEATS
    return local if local.is_dir() else default_folder()


def assess(beats: Sequence[Beat], *, now: float, patience: float) -> tuple[str, bool]:
    """Return one line, empty for no process, and whether all is well."""
    faults = [f"{beat.name} {fault}" for beat in beats if (fault := beat.find_fault(now=now, patience=patience))]
    if faults:
        return f"unhealthy: {'; '.join(faults)}", False
    names = sorted({f"{it.name} (waits: {it.waits_for})" if it.waits_for else it.name for it in beats})
    return (f"healthy: {', '.join(names)}" if names else ""), bool(names)


if __name__ == "__main__":
    main()
