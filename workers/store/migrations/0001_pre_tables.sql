-- The tables of the pipeline. Growing ones are partitioned by the day of a UUIDv7; open work stays in one small table.

-- The smallest UUIDv7 of a moment: partition bounds, retention and time filters on ids.
CREATE FUNCTION uuid_at(moment timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
    RETURN (lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid;

-- The moment in a UUIDv7, to the millisecond.
CREATE FUNCTION uuid_time(id uuid) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
    RETURN to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0);

-- Registry -----------------------------------------------------------------------------------------------------------

CREATE TABLE tenants (
    name          text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    max_in_flight integer CHECK (max_in_flight > 0),  -- cap on queued and running deliveries; NULL: none
    paused_at     timestamptz,                        -- while set, nothing of the tenant is admitted
    created_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE endpoints (
    tenant     text COLLATE "C" NOT NULL REFERENCES tenants (name),
    provider   text COLLATE "C" NOT NULL CHECK (provider ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    scheme     jsonb NOT NULL,                        -- the name of a signature scheme, or the description of one
    enabled    boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, provider)
);

CREATE TABLE endpoint_secrets (
    tenant     text COLLATE "C" NOT NULL,
    provider   text COLLATE "C" NOT NULL,
    label      text NOT NULL CHECK (length(label) BETWEEN 1 AND 100),
    ciphertext bytea NOT NULL,                        -- Fernet, see SECRETS_KEY
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    PRIMARY KEY (tenant, provider, label),
    FOREIGN KEY (tenant, provider) REFERENCES endpoints (tenant, provider)
);

-- Raised in the transaction of every change, by whoever makes it. It follows the clock, so that after a restore, or
-- with a new database behind the same Redis, the next change is newer than whatever was published before.
CREATE TABLE registry_version (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    version bigint NOT NULL
);
INSERT INTO registry_version (version) VALUES ((extract(epoch FROM clock_timestamp()) * 1000)::bigint);

CREATE FUNCTION raise_registry_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE registry_version
    SET version = greatest(version + 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint);
    RETURN NULL;
END $$;

CREATE TRIGGER endpoints_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON endpoints
    FOR EACH STATEMENT EXECUTE FUNCTION raise_registry_version();
CREATE TRIGGER endpoint_secrets_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON endpoint_secrets
    FOR EACH STATEMENT EXECUTE FUNCTION raise_registry_version();

-- Events -------------------------------------------------------------------------------------------------------------

CREATE TABLE events (
    id            uuid NOT NULL,
    provider      text COLLATE "C" NOT NULL,
    tenant        text COLLATE "C" NOT NULL,
    type          text,                               -- NULL when rejected before it was known
    subject       text,                               -- what it is about, such as a session id
    occurred_at   timestamptz,
    received_at   timestamptz NOT NULL,
    stored_at     timestamptz NOT NULL DEFAULT now(),
    headers       jsonb NOT NULL,
    body          bytea NOT NULL,                     -- exactly as received
    secret_label  text NOT NULL,
    fingerprint   bytea NOT NULL,
    state         text NOT NULL CHECK (state IN ('accepted', 'rejected')),
    reject_reason text,
    notes         text[] NOT NULL DEFAULT '{}',       -- what was odd and not obeyed
    PRIMARY KEY (id),
    CHECK ((state = 'rejected') = (reject_reason IS NOT NULL)),
    CHECK (state = 'rejected' OR type IS NOT NULL)
) PARTITION BY RANGE (id);
CREATE TABLE events_default PARTITION OF events DEFAULT;
CREATE INDEX events_tenant ON events (tenant, id);
CREATE INDEX events_rejected ON events (reject_reason, id) WHERE state = 'rejected';

-- The deduplication: at most one event per key. Not partitioned, a unique key over days would need the day in it.
CREATE TABLE receipts (
    tenant      text COLLATE "C" NOT NULL,
    provider    text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    event_id    uuid NOT NULL,
    PRIMARY KEY (fingerprint, tenant, provider)     -- what differs comes first: a quarter less time to insert
);
-- Receipts come in the order of time: a block range index is enough to find the old ones.
CREATE INDEX receipts_age ON receipts USING brin (event_id) WITH (pages_per_range = 32);

-- A row per duplicate, under the duplicate's own id, so that reading an inbox entry again counts nothing twice.
CREATE TABLE arrivals (
    id           uuid NOT NULL,
    first_id     uuid NOT NULL,
    tenant       text COLLATE "C" NOT NULL,
    provider     text COLLATE "C" NOT NULL,
    received_at  timestamptz NOT NULL,
    secret_label text NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE TABLE arrivals_default PARTITION OF arrivals DEFAULT;
CREATE INDEX arrivals_first ON arrivals (first_id);

-- Deliveries ---------------------------------------------------------------------------------------------------------

-- Open work only. `ready`: due, and so in the index that admission walks; a retry becomes ready when its time has come.
CREATE TABLE deliveries (
    event_id    uuid NOT NULL,
    handler     text COLLATE "C" NOT NULL,
    tenant      text COLLATE "C" NOT NULL,
    state       text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'queued', 'running')),
    ready       boolean NOT NULL DEFAULT true,
    alone       boolean NOT NULL DEFAULT false,       -- lost in company: runs in a message of its own
    attempt     integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    fence       bigint NOT NULL DEFAULT 0,            -- raised by every claim, never falls
    due_at      timestamptz NOT NULL DEFAULT now(),
    lease_until timestamptz,
    worker      text,                                 -- who claimed it last
    last_error  text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (event_id, handler),
    CHECK ((state = 'pending') = (lease_until IS NULL)),
    CHECK (NOT ready OR state = 'pending')
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
    autovacuum_analyze_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX deliveries_lane ON deliveries (tenant, handler, due_at, event_id) WHERE ready;
CREATE INDEX deliveries_due ON deliveries (due_at) WHERE state = 'pending' AND NOT ready;
CREATE INDEX deliveries_lease ON deliveries (state, lease_until) WHERE state <> 'pending';
CREATE INDEX deliveries_in_flight ON deliveries (tenant) WHERE state <> 'pending';

CREATE TABLE deliveries_done (
    event_id    uuid NOT NULL,
    handler     text COLLATE "C" NOT NULL,
    tenant      text COLLATE "C" NOT NULL,
    state       text NOT NULL CHECK (state IN ('succeeded', 'dead', 'cancelled')),
    attempt     integer NOT NULL,
    fence       bigint NOT NULL,
    worker      text,
    last_error  text,
    created_at  timestamptz NOT NULL,
    finished_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (event_id, handler),
    CHECK (state <> 'dead' OR last_error IS NOT NULL)
) PARTITION BY RANGE (event_id);
CREATE TABLE deliveries_done_default PARTITION OF deliveries_done DEFAULT;
CREATE INDEX deliveries_done_failed ON deliveries_done (state, tenant, handler, event_id) WHERE state <> 'succeeded';

CREATE TABLE attempts (
    event_id    uuid NOT NULL,
    handler     text COLLATE "C" NOT NULL,
    fence       bigint NOT NULL,                      -- the claim that failed
    attempt     integer NOT NULL,                     -- its number as it counts; a loss in company counts nothing
    error       text NOT NULL,
    traceback   text,
    duration    interval,                             -- NULL when it was lost
    worker      text,
    failed_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (event_id, handler, fence)
) PARTITION BY RANGE (event_id);
CREATE TABLE attempts_default PARTITION OF attempts DEFAULT;

-- Where admission stopped last; its row is also the lock that admissions take before they look.
CREATE TABLE admission (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    tenant  text COLLATE "C" NOT NULL DEFAULT '',
    handler text COLLATE "C" NOT NULL DEFAULT ''
) WITH (fillfactor = 10);
INSERT INTO admission DEFAULT VALUES;

CREATE VIEW all_deliveries AS
    SELECT event_id, handler, tenant, state, attempt, fence, due_at, lease_until, worker, last_error, created_at,
           NULL::timestamptz AS finished_at
    FROM deliveries
    UNION ALL
    SELECT event_id, handler, tenant, state, attempt, fence, NULL, NULL, worker, last_error, created_at, finished_at
    FROM deliveries_done;
