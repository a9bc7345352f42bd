"""Imports the modules of a team that a setting names, and notes the connections that this leaves open."""

from __future__ import annotations

import importlib
import traceback
from typing import TYPE_CHECKING

from workers.errors import RegistrationError
from workers.open_sockets import connected_sockets

if TYPE_CHECKING:
    from types import ModuleType

shared_connections: list[str] = []
"""A line for each connection that an import has opened: worker processes are forked afterwards, and would share it."""


def import_module(variable: str, name: str) -> ModuleType:
    """Import one module.

    Args:
        variable: the setting that names it, for the error.
        name: of the module, with dots.

    Raises:
        RegistrationError: it does not import; the text is one line with the place in the team's code.
    """
    before = connected_sockets()
    try:
        module = importlib.import_module(name)
    except RegistrationError:
        raise
    except Exception as error:  # any error of the team's module is theirs to read
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise RegistrationError(
            f"{variable}: the module {name!r} does not import: {type(error).__name__}: {' '.join(str(error).split())} "
            f"({frame.filename}:{frame.lineno})"
        ) from error
    shared_connections.extend(
        f"{variable}: importing {name!r} opened a connection to {peer}, which all worker processes would share: "
        "open it in a function under @on_process_start"
        for inode, peer in connected_sockets().items()
        if inode not in before
    )
    return module
