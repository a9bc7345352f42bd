"""The modules in HANDLERS and EVENTS, for commands that make deliveries as the ingest worker would.

Guarantees: modules in the current folder are found, as the workers find them. Refuses: a module that does not import.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.cli.env import find_context
from deploy.cli.errors import CommandError
from deploy.local.settings import inherited
from shared.settings import load
from workers import events, registration
from workers.errors import RegistrationError
from workers.settings import WorkerSettings

if TYPE_CHECKING:
    from workers.registration import Handlers


def load_handlers() -> Handlers:
    """Import the modules that EVENTS and HANDLERS name, and return the handlers.

    Raises:
        CommandError: a module does not import, or registers what is refused.
    """
    context = find_context()
    found = {
        "DATABASE_URL": context.database_url,
        "REDIS_URL": context.redis_url,
        "SECRETS_KEY": ",".join(context.secrets_key),
    }
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        settings = load(WorkerSettings, inherited() | found)
        events.load_modules(settings.events)
        return registration.load(settings.handlers)
    except RegistrationError as error:
        raise CommandError(str(error)) from None
