-- Counts of all tenants together, by minute and by hour: what a chart of a large installation is drawn from. Of events
-- `handler` is empty. Housekeeping adds to them in the statement that adds to `tallies`.
CREATE TABLE activity (
    span    text COLLATE "C" NOT NULL CHECK (span IN ('minute', 'hour')),
    at      timestamptz NOT NULL,                     -- the beginning of it
    handler text COLLATE "C" NOT NULL,
    outcome text COLLATE "C" NOT NULL,
    bucket  smallint NOT NULL,                        -- as in `tallies`
    count   bigint NOT NULL,
    PRIMARY KEY (span, at, handler, outcome, bucket)
) WITH (fillfactor = 50);
