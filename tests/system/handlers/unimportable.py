"""A module of HANDLERS that does not import."""

from __future__ import annotations

raise RuntimeError("the licence file is missing")
