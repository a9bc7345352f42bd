"""Runs a command as a container would: a user without rights, a read-only file system, a /tmp of its own.

It takes a mount namespace, and so root on Linux; elsewhere the command is run as it is.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

IS_POSSIBLE: Final = sys.platform == "linux" and os.geteuid() == 0 and shutil.which("setpriv") is not None

_SCRIPT: Final = """
set -e
python=$1 writable=$2; shift 2
mount -t tmpfs -o mode=755 none /mnt
mkdir /mnt/python /mnt/writable
mount --bind "$python" /mnt/python
mount --bind "$writable" /mnt/writable
mount -t tmpfs -o mode=1777 none /tmp
case $python in /root/*)  # where nobody else could walk to it
  mount -t tmpfs -o mode=755 none /root; mkdir -p "$python"; mount --bind /mnt/python "$python"
esac
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
    return [*namespace, "sh", "-c", _SCRIPT, "sandbox", sys.base_prefix, str(writable), *command]
