"""The table of routes: everything that the console answers, with the least role that may ask for it."""

from typing import Final

from deploy.console.actions import rules
from deploy.console.pages import (
    alerts,
    audit,
    deliveries,
    endpoints,
    events,
    handlers,
    incidents,
    jobs,
    now,
    reconcile,
    refused,
    rejected,
    secrets,
    sign_in,
    tenants,
    users,
)

PAGES: Final = (
    *(now, events, incidents, rejected, refused, tenants, endpoints, secrets),
    *(handlers, deliveries, jobs, alerts, audit, reconcile, users),
)
ACTIONS: Final = tuple(action for page in PAGES for action in page.ACTIONS)
RULES: Final = (*sign_in.RULES, *(rule for page in PAGES for rule in page.RULES), *rules(ACTIONS))
