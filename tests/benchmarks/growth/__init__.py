"""Growth: what each event costs while something around it grows; the fixed part is taken off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.benchmarks.ground import Ground


class Curve(Protocol):
    """Measures one curve into `results["curves"]` or `results["tables"]`; `full`: up to its last point."""

    def __call__(self, ground: Ground, results: dict[str, Any], *, full: bool) -> None:
        """Measure."""


CURVES: Final[Mapping[str, Curve]] = {}
