-- Turns go round tenants, then each tenant's handlers; limits are off until somebody sets them.

ALTER TABLE tenants ADD COLUMN weight integer NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 AND 1000);
DROP INDEX tenants_bounded;
CREATE INDEX tenants_bounded ON tenants (name)
    WHERE paused_at IS NOT NULL OR max_in_flight IS NOT NULL OR weight <> 1;

-- Limits of a handler, for all tenants together ('*') or for one. `tokens` may be taken at `counted_at`: a bucket of
-- what one second brings, at least one.
CREATE TABLE handler_limits (
    handler       text COLLATE "C" NOT NULL,
    tenant        text COLLATE "C" NOT NULL DEFAULT '*',
    max_in_flight integer CHECK (max_in_flight > 0),
    rate          double precision CHECK (rate > 0),  -- deliveries a second
    tokens        double precision NOT NULL DEFAULT 1,
    counted_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (handler, tenant),
    CHECK (max_in_flight IS NOT NULL OR rate IS NOT NULL)
);

-- Where a tenant's own turns go on, for tenants whose handlers did not all find room.
CREATE TABLE admission_turns (
    tenant  text COLLATE "C" PRIMARY KEY,
    handler text COLLATE "C" NOT NULL
) WITH (fillfactor = 50);

-- What each tenant has lately sent through the express queue, in seconds of work; see workers/dispatch/express.py.
ALTER TABLE admission ADD COLUMN express jsonb NOT NULL DEFAULT '{}', ADD COLUMN express_at timestamptz;
