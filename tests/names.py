"""The names in Redis where no prefix is set, as in most tests."""

from __future__ import annotations

from typing import Final

from shared.wire import Names

NAMES: Final = Names("")
