"""The peer's one table."""

from __future__ import annotations

from typing import Final

TABLES: Final = """
CREATE TABLE naive_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, provider text NOT NULL, tenant text NOT NULL,
    session_id text NOT NULL UNIQUE, body jsonb NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(), handled_at timestamptz
)
"""
