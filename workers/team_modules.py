"""Imports the modules of a team that a setting names."""

from __future__ import annotations

import importlib
import traceback
from typing import TYPE_CHECKING

from workers.errors import RegistrationError

if TYPE_CHECKING:
    from types import ModuleType


def import_module(variable: str, name: str) -> ModuleType:
    """Import one module.

    Args:
        variable: the setting that names it, for the error.
        name: of the module, with dots.

    Raises:
        RegistrationError: it does not import; the text is one line with the place in the team's code.
    """
    try:
        return importlib.import_module(name)
    except RegistrationError:
        raise
    except Exception as error:  # any error of the team's module is theirs to read
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise RegistrationError(
            f"{variable}: the module {name!r} does not import: {type(error).__name__}: {' '.join(str(error).split())} "
            f"({frame.filename}:{frame.lineno})"
        ) from error
