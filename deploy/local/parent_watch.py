"""Becomes another program that ends with its parent: `parent_watch.py SIGNAL PARENT UID program arguments…`.

On Linux the program gets SIGNAL when the process PARENT ends, for whatever reason, even if that was before this line
ran. macOS has no such request: there the program runs on until the next `pipeline up` ends it. This is a script, so
that no Python code runs between fork and exec in the parent.
"""

import ctypes
import os
import pwd
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Change to the user UID, ask for the signal, become the program."""
    signal, parent, uid, *argv = sys.argv[1:]
    if int(uid) != os.geteuid():
        os.setgroups([])
        os.setgid(pwd.getpwuid(int(uid)).pw_gid)
        os.setuid(int(uid))
    if sys.platform == "linux":
        # after the change of user, which clears the request; becoming another program keeps it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal))
        if os.getppid() != int(parent):
            sys.exit(f"the parent process {parent} has ended")
    os.execv(argv[0], argv)  # noqa: S606 - becoming the caller's own command is all this script is for


if __name__ == "__main__":
    main()
