"""systemd's unit files as a test reads and runs them."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "deploy" / "systemd"
SERVICES: Final = sorted(FOLDER.glob("*.service"))
LASTING: Final = [path for path in SERVICES if path.name != "webhook-migrate@.service"]
_INSTALLED: Final = re.compile(r"/opt/webhook-pipeline/(ingress|workers)/bin")


def in_this_environment(text: str) -> str:
    """Return a unit's text with this environment's folder of programs in place of the installed ones."""
    return _INSTALLED.sub(str(Path(sys.executable).parent), text)


@dataclass(slots=True)
class Unit:
    """A service's unit file.

    Attributes:
        name: of the unit, an instance for a template.
        options: each option's values, in order.
    """

    name: str
    options: dict[str, list[str]] = field(default_factory=dict)

    @property
    def command(self) -> list[str]:
        return shlex.split(in_this_environment(self.expand(self.one("ExecStart"))))

    @property
    def environ(self) -> dict[str, str]:
        """What `Environment=` sets."""
        words = [word for line in self.options.get("Environment", []) for word in shlex.split(self.expand(line))]
        return dict(word.split("=", 1) for word in words)

    def one(self, option: str) -> str:
        (value,) = self.options[option]
        return value

    def expand(self, text: str) -> str:
        instance = self.name.partition("@")[2]
        for specifier, value in {"%i": instance, "%N": self.name, "%t": "/run", "%%": "%"}.items():
            text = text.replace(specifier, value)
        return text


def read_unit(path: Path, *, instance: str = "1") -> Unit:
    stem = path.name.removesuffix(".service")
    unit = Unit(name=f"{stem}{instance}" if stem.endswith("@") else stem)
    for line in path.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            option, _, value = line.partition("=")
            unit.options.setdefault(option, []).append(value)
    return unit
