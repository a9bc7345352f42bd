-- Failures of one cause as one incident, and who is told of it.

-- The incident of a dead delivery; NULL until housekeeping has grouped it. The index is its queue, and finds what an incident
-- is about; it holds no delivery that succeeded.
ALTER TABLE deliveries_done ADD COLUMN incident bigint;
CREATE INDEX deliveries_done_incident ON deliveries_done (incident, event_id) WHERE state = 'dead';

-- `subject`: the handler of a failure, the provider of rejected events, tenant/provider of a refused endpoint. `cause`: the
-- error with its variable parts taken out, the reason, the code. `count`: dead deliveries, rejected events, refusals.
-- `waiting`: deliveries that wait for another attempt after failing so. `successes`: of the handler, ever, when it failed last.
CREATE TABLE incidents (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind        text COLLATE "C" NOT NULL CHECK (kind IN ('failure', 'rejected', 'refused')),
    subject     text COLLATE "C" NOT NULL,
    cause       text COLLATE "C" NOT NULL,
    example     text NOT NULL,                        -- an error as it came
    state       text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'resolved')),
    first_seen  timestamptz NOT NULL,
    last_seen   timestamptz NOT NULL,
    opened_at   timestamptz NOT NULL DEFAULT now(),   -- the latest time
    resolved_at timestamptz,
    resolved_by text,                                 -- NULL: nobody, it was quiet
    reopened    integer NOT NULL DEFAULT 0,
    count       bigint NOT NULL DEFAULT 0,
    waiting     integer NOT NULL DEFAULT 0,
    samples     uuid[] NOT NULL DEFAULT '{}',         -- events, the latest first
    successes   bigint NOT NULL DEFAULT 0,
    muted_until timestamptz,
    told_at     timestamptz,                          -- of the latest notice
    UNIQUE (kind, subject, cause),
    CHECK ((state = 'resolved') = (resolved_at IS NOT NULL))
) WITH (fillfactor = 80);
CREATE INDEX incidents_open ON incidents (last_seen) WHERE state = 'open';
CREATE INDEX incidents_seen ON incidents (kind, subject, last_seen);

CREATE TABLE incident_tenants (
    incident  bigint NOT NULL REFERENCES incidents ON DELETE CASCADE,
    tenant    text COLLATE "C" NOT NULL,
    count     bigint NOT NULL DEFAULT 0,
    last_seen timestamptz NOT NULL,
    PRIMARY KEY (incident, tenant)
) WITH (fillfactor = 80);

-- How far rejected events have been looked at.
CREATE TABLE incident_progress (
    one       boolean PRIMARY KEY DEFAULT true CHECK (one),
    stored_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
INSERT INTO incident_progress DEFAULT VALUES;

-- What is to be told, written in the transaction that decides it, under one lock: ids are in the order of the commits.
-- `tenants`: that are affected; of `joined`, a tenant that was not when the incident was opened.
CREATE TABLE incident_notices (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    incident bigint NOT NULL REFERENCES incidents ON DELETE CASCADE,
    kind     text NOT NULL CHECK (kind IN ('opened', 'joined', 'resolved', 'reminder')),
    tenants  text[] NOT NULL,
    at       timestamptz NOT NULL DEFAULT now()
);

-- Channels are configured in the file ALERTS; `seen` is the last notice that one has made its messages of.
CREATE TABLE alert_channels (
    name text COLLATE "C" PRIMARY KEY,
    seen bigint NOT NULL
) WITH (fillfactor = 50);

-- Messages of a channel, sent in their order. The id goes with each attempt, so that a receiver can tell a repetition.
CREATE TABLE alert_messages (
    number   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id       uuid NOT NULL DEFAULT gen_random_uuid(),
    channel  text COLLATE "C" NOT NULL,
    content  jsonb NOT NULL,
    state    text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'sent', 'failed')),
    made_at  timestamptz NOT NULL DEFAULT now(),
    due_at   timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    error    text,                                    -- of the latest attempt
    ended_at timestamptz,
    CHECK ((state = 'waiting') = (ended_at IS NULL))
) WITH (fillfactor = 80);
CREATE INDEX alert_messages_waiting ON alert_messages (channel, number) WHERE state = 'waiting';
CREATE INDEX alert_messages_made ON alert_messages (made_at);
