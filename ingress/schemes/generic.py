"""`hmac`, the generic scheme: `X-Signature: <hex HMAC-SHA256 of the raw body>`.

The default for services of one's own, and what a scheme file starts from that changes only a header or an encoding.
No time is signed unless the file says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ingress.schemes.declared import declare

if TYPE_CHECKING:
    from collections.abc import Mapping

DESCRIPTION: Final[Mapping[str, Any]] = {"header": "X-Signature", "algorithm": "hmac-sha256", "encoding": "hex"}
SCHEME: Final = declare(DESCRIPTION)
verify, sign = SCHEME.verify, SCHEME.sign
