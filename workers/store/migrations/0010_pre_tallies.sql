-- How many, and how long: counted in the transaction that decides, rolled up by housekeeping.

-- A row for each batch, tenant and outcome, appended by whoever decides and taken by housekeeping within seconds. No key,
-- no index: nobody waits for anybody. One element of `seconds` for each that is counted, NULL where no time is known: of
-- an event from received to stored, of an attempt its run. `waits`: of finished deliveries, from stored to finished.
CREATE TABLE tallies_new (
    at       timestamptz NOT NULL DEFAULT now(),
    tenant   text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL DEFAULT '',
    handler  text COLLATE "C" NOT NULL DEFAULT '',
    outcome  text COLLATE "C" NOT NULL,
    seconds  real[] NOT NULL,
    waits    real[]
) WITH (autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE tallies_new ALTER COLUMN seconds SET STORAGE EXTERNAL, ALTER COLUMN waits SET STORAGE EXTERNAL;

-- Of each minute, and after some hours of each hour. Events have a provider and no handler, deliveries a handler and no
-- provider. `bucket`: the number of bounds (workers/store/tallies.py) that the time has reached, -1 where none is known.
CREATE TABLE tallies (
    minute   timestamptz NOT NULL,
    tenant   text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    handler  text COLLATE "C" NOT NULL,
    outcome  text COLLATE "C" NOT NULL,
    bucket   smallint NOT NULL,
    count    bigint NOT NULL,
    seconds  double precision NOT NULL,
    PRIMARY KEY (minute, tenant, provider, handler, outcome, bucket)
) WITH (fillfactor = 80);
CREATE TABLE tallies_hourly (
    hour     timestamptz NOT NULL,
    tenant   text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    handler  text COLLATE "C" NOT NULL,
    outcome  text COLLATE "C" NOT NULL,
    bucket   smallint NOT NULL,
    count    bigint NOT NULL,
    seconds  double precision NOT NULL,
    PRIMARY KEY (hour, tenant, provider, handler, outcome, bucket)
);

-- Of all tenants together, since the beginning; only ever added to. `figure`: events (received to stored), attempts
-- (runs), or waits (stored to finished).
CREATE TABLE totals (
    figure  text COLLATE "C" NOT NULL CHECK (figure IN ('events', 'attempts', 'waits')),
    handler text COLLATE "C" NOT NULL,
    outcome text COLLATE "C" NOT NULL,
    bucket  smallint NOT NULL,
    count   bigint NOT NULL,
    seconds double precision NOT NULL,
    since   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (figure, handler, outcome, bucket)
) WITH (fillfactor = 50);

-- When an endpoint sent its last event, and how many it usually sends in this hour of the day: no fewer than that yesterday
-- and, once it is older, a week ago.
CREATE TABLE endpoint_activity (
    tenant         text COLLATE "C" NOT NULL,
    provider       text COLLATE "C" NOT NULL,
    first_at       timestamptz NOT NULL,
    last_at        timestamptz NOT NULL,
    usual_per_hour bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, provider)
) WITH (fillfactor = 50);
CREATE INDEX endpoint_activity_silent ON endpoint_activity (last_at) WHERE usual_per_hour >= 10;
