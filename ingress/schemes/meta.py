"""Meta (WhatsApp, Messenger, Instagram): GitHub's signature, and `hub.challenge` on GET before the first event.

The verify token that Meta asks for is derived from the app's secret (`ingress.schemes.handshakes`): nothing more to
store, and `pipeline endpoints add` prints it. No time and no id is signed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ingress.schemes import github
from ingress.schemes.declared import declare

if TYPE_CHECKING:
    from collections.abc import Mapping

DESCRIPTION: Final[Mapping[str, Any]] = {**github.DESCRIPTION, "handshake": "hub.challenge"}
SCHEME: Final = declare(DESCRIPTION)
verify, sign = SCHEME.verify, SCHEME.sign
