"""Parses rejected events again after a fix; a resend by the provider would be rejected or a duplicate.

An event that is now understood is accepted with its deliveries, once. Each event has a transaction and an outcome of
its own, so that a long list may be interrupted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from shared.envelope import Envelope, EnvelopeError, decode
from workers.events.model import Rejected
from workers.ingest.parsing import BAD_ENVELOPE, fields_of_broken, parse_envelope, rejected
from workers.store.rejected import Narrowed, list_rejected, reprocess_event

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from workers.store.connect import Connection
    from workers.store.entry import Entry
    from workers.store.events import Catalogue
    from workers.store.rejected import RejectedEvent, Reprocessed

__all__: Final = ["parse_again", "reprocess"]


def reprocess(
    connection: Connection,
    *,
    catalogue: Catalogue,
    event_ids: Sequence[UUID] = (),
    reason: str | None = None,
    dry_run: bool = False,
) -> Iterator[Reprocessed]:
    """Parse rejected events again.

    Args:
        connection: outside a transaction.
        catalogue: decides which deliveries are made.
        event_ids: which ones.
        reason: also all that were rejected for this reason.
        dry_run: only say what would come of it.

    Yields:
        One outcome for each event, once it is committed.
    """
    ids = list(event_ids)
    if reason is not None:
        ids += list_rejected(connection, Narrowed(reason=reason))
    for event_id in dict.fromkeys(ids):
        yield reprocess_event(connection, event_id, parse_again, catalogue, dry_run=dry_run)


def parse_again(event: RejectedEvent) -> Entry:
    """Parse a stored event as the drain would have, however old it is.

    What was no envelope keeps the id that it got then.
    """
    envelope = Envelope(
        id=event.id,
        provider=event.provider,
        tenant=event.tenant,
        secret_label=event.secret_label,
        received_at=event.received_at,
        headers=tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in event.headers.items()),
        body=event.body,
    )
    if event.reject_reason == BAD_ENVELOPE:
        try:
            envelope = replace(decode(fields_of_broken(event.body)), id=event.id)
        except EnvelopeError as error:
            return rejected(envelope, Rejected(BAD_ENVELOPE, str(error)))
    return parse_envelope(envelope)
