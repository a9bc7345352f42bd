"""Builds what the Containerfile says and runs it, with no container engine: in a mount namespace over this machine.

Each RUN and COPY is carried out in an overlay of the root file system, at the paths that the file names; this Python
takes the place of the base image's. `run` starts a command as an engine would: as the image's user, process 1 of a PID
namespace, on a read-only root, with a /tmp of its own and no environment but the image's and the given one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.deploy.sandbox import IS_POSSIBLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).parents[2]
CONTAINERFILE: Final = ROOT / "deploy" / "docker" / "Containerfile"
TARGETS: Final = ("ingress", "workers", "tools")
REASON: Final = "needs root on Linux, for a mount namespace, and a tree that does not lie below /tmp"
BASE_PYTHON: Final = f"{sys.base_prefix}/bin"
__all__ = ["IS_POSSIBLE"]

_OVERLAY: Final = """
set -e
mount -t overlay overlay -o "lowerdir=/,upperdir=$1,workdir=$2" /mnt/tree
mount --rbind /dev /mnt/tree/dev
mount -t proc proc /mnt/tree/proc
mount -t tmpfs -o mode=1777,size=64m none /mnt/tree/tmp
"""
_BUILD: Final = f"""
mount -t tmpfs -o mode=755 none /mnt; mkdir /mnt/tree
{_OVERLAY}
exec chroot /mnt/tree sh -e /build.sh
"""
_RUN: Final = f"""
upper=$1 venv=$2 user=$3 folder=$4; shift 4
mount -t tmpfs -o mode=755 none /mnt; mkdir /mnt/tree /mnt/upper /mnt/work
cp -a "$upper/." /mnt/upper/
mkdir -p /mnt/upper/venv
set -- /mnt/upper /mnt/work "$@"
{_OVERLAY}
shift 2
mount --bind "$venv" /mnt/tree/venv
for place in /mnt/tree /mnt/tree/venv; do mount -o remount,bind,ro "$place"; done
rights="--clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all"
exec chroot /mnt/tree setpriv --reuid="${{user%:*}}" --regid="${{user#*:}}" $rights \\
  sh -c 'cd "$0"; exec "$@"' "$folder" "$@"
"""


@dataclass(slots=True)
class Stage:
    """One FROM and what follows it."""

    parent: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, instruction: str) -> list[str]:
        """Return the arguments of the last instruction of this name, in its exec form; empty if there is none."""
        texts = [text for name, text in self.steps if name == instruction]
        return list(json.loads(texts[-1])) if texts else []


def read_stages() -> dict[str, Stage]:
    lines = [line for line in CONTAINERFILE.read_text().splitlines() if not line.startswith("#")]
    stages: dict[str, Stage] = {}
    current = ""
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, text = line.strip().partition(" ")
        if name == "FROM":
            parent, _, current = text.partition(" AS ")
            stages[current] = Stage(parent)
        elif name and name != "ARG":
            stages[current].steps.append((name, text.strip()))
    return stages


def ancestry(stages: Mapping[str, Stage], name: str) -> list[Stage]:
    """Return a stage and those that it builds on, the first one first."""
    found: list[Stage] = []
    while name in stages:
        found.insert(0, stages[name])
        name = stages[name].parent
    return found


def build_script(stage: Stage) -> str:
    """Return what a stage does as a shell script, run in the overlay's root."""
    lines = []
    for name, text in stage.steps:
        if name == "RUN":
            lines.append(f"({text})")
        elif name == "ENV":
            lines += [f"export {word}" for word in text.split()]
        elif name == "WORKDIR":
            lines.append(f"mkdir -p {text}; cd {text}")
        elif name == "COPY" and not text.startswith("--from"):
            *sources, target = text.split()
            for source in sources:
                flag = "-rT" if source.endswith("/") else "-r"
                lines.append(f'mkdir -p "$(dirname {target}x)"; cp {flag} {ROOT}/{source} {target}')
    return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What was built: the files that the base image gained, and an environment for each target."""

    home: Path

    def venv(self, target: str) -> Path:
        return self.home / "venvs" / target

    def environ(self, target: str) -> dict[str, str]:
        """What ENV says for a target."""
        found = {"PATH": f"{BASE_PYTHON}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        for stage in ancestry(read_stages(), target):
            for name, text in stage.steps:
                for word in text.split() if name == "ENV" else ():
                    key, _, value = word.partition("=")
                    found[key] = value.replace("$PATH", found["PATH"])
        return found

    def user(self, target: str) -> str:
        return [text for stage in ancestry(read_stages(), target) for name, text in stage.steps if name == "USER"][-1]

    @contextmanager
    def run(self, target: str, command: Sequence[str], *, environ: Mapping[str, str], log: Path) -> Iterator[Container]:
        """Run a command in a container of a target until the block ends."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                [
                    *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"),
                    *("sh", "-c", _RUN, "run", str(self.home / "upper"), str(self.venv(target))),
                    *(self.user(target), "/app", *command),
                ],
                env=self.environ(target) | dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        container = Container(process, self.user(target), self.environ(target) | dict(environ))
        try:
            yield container
        finally:
            with suppress(OSError, IndexError):
                os.kill(container.pid, signal.SIGKILL)  # the first process takes all others of its namespace with it
            process.kill()
            process.wait()


@dataclass(frozen=True, slots=True)
class Container:
    """A running one; `process` is what waits for its process 1."""

    process: subprocess.Popen[bytes]
    user: str
    environ: Mapping[str, str]

    @property
    def pid(self) -> int:
        """The process that is 1 inside."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def execute(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command beside it, as a health check does."""
        uid, _, gid = self.user.partition(":")
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--root"]
        rights = [
            "setpriv",
            f"--reuid={uid}",
            f"--regid={gid}",
            "--clear-groups",
            "sh",
            "-c",
            'cd /app; exec "$@"',
            "sh",
        ]
        return subprocess.run(
            [*enter, *rights, *command], env=dict(self.environ), capture_output=True, text=True, check=False
        )


def build(home: Path) -> Images:
    """Carry out the whole Containerfile in `home`."""
    stages = read_stages()
    for folder in ("upper", "work", "venvs"):
        (home / folder).mkdir()
    closed = [folder for folder in Path(sys.base_prefix).parents if not folder.stat().st_mode & 0o001]
    lines = [f"PATH={BASE_PYTHON}:$PATH", *(f"chmod o+x {folder}" for folder in closed), build_script(stages["build"])]
    for target in TARGETS:
        # `ENV` and the working folder of the stage before still hold: one shell runs all
        lines += [build_script(stages[f"build-{target}"]), f"mkdir -p /venvs; mv /venv /venvs/{target}"]
        assert re.search(rf"^COPY --from=build-{target} /venv /venv$", CONTAINERFILE.read_text(), re.MULTILINE)
    lines.append(build_script(stages["base"]))
    (home / "upper" / "build.sh").write_text("\n".join(lines))
    namespace = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork"]
    layers = [str(home / "upper"), str(home / "work")]
    done = subprocess.run(
        [*namespace, "sh", "-c", _BUILD, "build", *layers], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    for target in TARGETS:
        shutil.move(home / "upper" / "venvs" / target, home / "venvs" / target)
    for folder in ("source", "build", "wheels", "venvs"):  # of stages that no image keeps
        shutil.rmtree(home / "upper" / folder)
    return Images(home=home)
