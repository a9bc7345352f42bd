-- What people have asked to be done with many deliveries or events. Housekeeping does it in steps; each step and how far it
-- has come are one transaction.

CREATE TABLE jobs (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind        text NOT NULL CHECK (kind IN ('retry', 'resend', 'cancel', 'backfill', 'reprocess')),
    filter      jsonb NOT NULL,                       -- see `workers.store.jobs.Filter`
    who         text NOT NULL,
    why         text,
    rate        double precision CHECK (rate > 0 AND rate < 'infinity'),  -- deliveries or events a second; NULL: any
    state       text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paused', 'done', 'cancelled', 'failed')),
    expected    bigint,                               -- from a dry run; NULL: not counted (in time)
    is_counted  boolean NOT NULL DEFAULT false,
    looked_at   bigint NOT NULL DEFAULT 0,
    changed     bigint NOT NULL DEFAULT 0,
    position    jsonb,                                -- after which the next step goes on
    passes      integer NOT NULL DEFAULT 0,
    tokens      double precision NOT NULL DEFAULT 0,  -- of the rate, at `counted_at`
    counted_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    error       text,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    begins_at   timestamptz NOT NULL DEFAULT clock_timestamp(),  -- until then whoever asked works on it
    stepped_at  timestamptz,
    finished_at timestamptz,
    CHECK ((finished_at IS NULL) = (state IN ('running', 'paused'))),
    CHECK ((error IS NOT NULL) = (state = 'failed'))
);
CREATE INDEX jobs_running ON jobs (stepped_at NULLS FIRST, id) WHERE state = 'running';

-- What was changed: deliveries of a tenant for a handler, or events by what came of them.
CREATE TABLE job_counts (
    job    bigint NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    tenant text COLLATE "C" NOT NULL,
    name   text COLLATE "C" NOT NULL,
    count  bigint NOT NULL,
    PRIMARY KEY (job, tenant, name)
);
