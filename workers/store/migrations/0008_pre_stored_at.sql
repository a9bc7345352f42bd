-- Retention and deduplication follow the clock of Postgres: an id is the word of an ingress, which may be wrong or late.

-- Receipts of versions before this one have no moment: they go by the id of their event.
ALTER TABLE receipts ADD COLUMN stored_at timestamptz;
ALTER TABLE receipts ALTER COLUMN stored_at SET DEFAULT now();
CREATE INDEX receipts_stored ON receipts USING brin (stored_at) WITH (pages_per_range = 32);

-- Days, by the ids, of which something was stored when they were over: nothing later than the latest `until`. A day may
-- be here several times: with a unique key, drains would wait for each other.
CREATE TABLE late_days (
    day   date NOT NULL,
    until timestamptz NOT NULL
);
CREATE INDEX late_days_until ON late_days (day, until);

-- Note the days of these ids, unless that was done within the last hour.
CREATE FUNCTION note_late(ids uuid[]) RETURNS void LANGUAGE sql STRICT AS $$
    INSERT INTO late_days (day, until)
    SELECT DISTINCT (uuid_time(id) AT TIME ZONE 'UTC')::date, now() + interval '1 hour' FROM unnest(ids) AS id
    WHERE NOT EXISTS (
        SELECT FROM late_days AS l WHERE l.day = (uuid_time(id) AT TIME ZONE 'UTC')::date AND l.until > now()
    );
$$;

-- What lies in DEFAULT goes by row.
CREATE INDEX events_default_stored ON events_default (stored_at);
