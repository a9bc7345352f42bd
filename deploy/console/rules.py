"""One row of the table of routes: what answers a request, and who may ask."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from starlette.responses import Response

from deploy.console.visit import Visit
from workers.store.people import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A route.

    Attributes:
        role: the least that is needed; None: anybody.
        page: answers; what it changes may need a right of a tenant's, which it checks itself.
    """

    method: Literal["GET", "POST"]
    path: str
    role: Role | None
    page: Callable[[Visit], Response]
