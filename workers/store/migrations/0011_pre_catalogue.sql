-- What handler workers have announced: deliveries are made by it, so that ingest workers import no handlers.

-- `replaced`: digests of registrations that others have taken the place of. `renamed_to`: nothing is made for the old name
-- any more. `backfill_after`: the event after which deliveries of stored events are still to be made; NULL when none are.
CREATE TABLE registered_handlers (
    name            text COLLATE "C" PRIMARY KEY,
    event           text NOT NULL,                    -- what it asks for; * is anything
    tenant          text NOT NULL,
    provider        text NOT NULL,
    max_attempts    integer NOT NULL CHECK (max_attempts > 0),
    timeout_seconds double precision NOT NULL,
    schedule        double precision[] NOT NULL,      -- seconds
    serial_by       text,
    code_version    text NOT NULL,                    -- of the worker that was heard of it last
    replaced        text[] NOT NULL DEFAULT '{}',
    renamed_to      text COLLATE "C",
    backfill_after  uuid,
    announced_at    timestamptz NOT NULL DEFAULT now(),
    last_seen_at    timestamptz NOT NULL DEFAULT now()
);

-- `version` is raised by every change of what handlers ask for; 0 until the first announcement. Until then the ids of
-- the stored events are above `unheard_id`, and `unheard_since` is the time of the earliest batch.
CREATE TABLE handler_catalogue (
    one           boolean PRIMARY KEY DEFAULT true CHECK (one),
    version       bigint NOT NULL DEFAULT 0,
    unheard_id    uuid,
    unheard_since timestamptz,
    CHECK ((unheard_id IS NULL) = (unheard_since IS NULL))
);
INSERT INTO handler_catalogue DEFAULT VALUES;
