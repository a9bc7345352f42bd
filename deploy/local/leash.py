"""Becomes another program that does not outlive its supervisor: `leash.py SIGNAL PARENT UID program arguments…`.

A script of its own, so that nothing runs between fork and exec in the supervisor. Guarantees on Linux: the program gets
SIGNAL when the process PARENT ends, however that ends, even before this line ran. On macOS there is no such request:
the program runs on until the next `pipeline up` takes it down. Refuses nothing.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Drop to the user, ask for the signal, become the program."""
    signal, parent, uid, *argv = sys.argv[1:]
    if int(uid) != os.geteuid():
        os.setgroups([])
        os.setgid(pwd.getpwuid(int(uid)).pw_gid)
        os.setuid(int(uid))
    if sys.platform == "linux":
        # after the change of user: that clears the request, while becoming the program keeps it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal))
        if os.getppid() != int(parent):
            sys.exit(f"the supervisor {parent} is gone")
    os.execv(argv[0], argv)  # noqa: S606 - becoming the supervisor's own command is all this script is for


if __name__ == "__main__":
    main()
