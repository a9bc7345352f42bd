"""Runs a command as a container would: a user without rights, a read-only file system, a /tmp of its own.

It takes a mount namespace, and so root on Linux; elsewhere the command is run as it is.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROBE: Final = """
mount -t tmpfs none /mnt && mkdir /mnt/upper /mnt/work /mnt/tree &&
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/tree
"""


def _is_possible() -> bool:
    """Say whether this process may mount: root on Linux may, in most containers nobody may.

    A tree below /tmp would be hidden by the /tmp that a sandbox has of its own.
    """
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("setpriv") is None:
        return False
    if Path(__file__).is_relative_to("/tmp"):
        return False
    probe = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "sh", "-c", _PROBE]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


IS_POSSIBLE: Final = _is_possible()

_SCRIPT: Final = """
set -e
python=$1 closed=$2 writable=$3; shift 3
mount -t tmpfs -o mode=755 none /mnt
mkdir /mnt/python /mnt/writable
mount --bind "$python" /mnt/python
mount --bind "$writable" /mnt/writable
mount -t tmpfs -o mode=1777 none /tmp
if [ -n "$closed" ]; then
  mount -t tmpfs -o mode=755 none "$closed"; mkdir -p "$python"; mount --bind /mnt/python "$python"
fi
mkdir -p "$writable"
mount --bind /mnt/writable "$writable"
mount -o remount,bind,ro /
exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


def sandboxed(command: Sequence[str], *, writable: Path) -> list[str]:
    """Return the command line that runs `command` so, with one folder, below /tmp, left for it to write to.

    The process that it starts becomes the command: signals reach it.
    """
    if not IS_POSSIBLE:
        return list(command)
    namespace = ["unshare", "--mount", "--propagation", "private"]
    python = Path(sys.base_prefix)
    closed = next((str(folder) for folder in reversed(python.parents) if not folder.stat().st_mode & stat.S_IXOTH), "")
    return [*namespace, "sh", "-c", _SCRIPT, "sandbox", str(python), closed, str(writable), *command]
