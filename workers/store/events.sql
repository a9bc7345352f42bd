-- Storing a batch of inbox entries. Parameters are binary arrays: as text they are twelve times slower.

-- name: ping
SELECT 1;

-- Waits for a concurrent batch that holds one of the keys. Sorted by key, so that two batches cannot deadlock. The version of
-- the catalogue comes with each new receipt: where there are none, no deliveries are made.
-- name: insert_receipts
INSERT INTO receipts (tenant, provider, fingerprint, event_id)
SELECT * FROM unnest(%(tenants)b::text[], %(providers)b::text[], %(fingerprints)b::bytea[], %(ids)b::uuid[])
ON CONFLICT DO NOTHING
RETURNING event_id, (SELECT version FROM handler_catalogue);

-- The days of what comes late are noted: they are kept as long as it. `note_late` does nothing with no ids, NULL.
-- name: insert_events
WITH stored AS (
    INSERT INTO events (
        id, provider, tenant, type, subject, occurred_at, received_at, headers, body, secret_label, fingerprint,
        state, reject_reason, notes
    )
    SELECT e.id, e.provider, e.tenant, e.type, e.subject, e.occurred_at, e.received_at, e.headers::jsonb, e.body,
           e.secret_label, e.fingerprint, CASE WHEN e.reject_reason IS NULL THEN 'accepted' ELSE 'rejected' END,
           e.reject_reason, e.notes::text[]
    FROM unnest(
        %(id)b::uuid[], %(provider)b::text[], %(tenant)b::text[], %(type)b::text[], %(subject)b::text[],
        %(occurred_at)b::timestamptz[], %(received_at)b::timestamptz[], %(headers)b::text[], %(body)b::bytea[],
        %(secret_label)b::text[], %(fingerprint)b::bytea[], %(reject_reason)b::text[], %(notes)b::text[]
    ) AS e(
        id, provider, tenant, type, subject, occurred_at, received_at, headers, body, secret_label, fingerprint,
        reject_reason, notes
    )
    RETURNING id, tenant, provider, state, received_at
), tallied AS (
    INSERT INTO tallies_new (tenant, provider, outcome, seconds)
    SELECT tenant, provider, CASE state WHEN 'accepted' THEN 'stored' ELSE state END,
           array_agg(greatest(extract(epoch FROM clock_timestamp() - received_at), 0)::real)
    FROM stored GROUP BY tenant, provider, state
)
SELECT note_late(array_agg(id)) FROM stored WHERE id < (SELECT uuid_at(date_trunc('day', now())));

-- name: insert_deliveries
INSERT INTO deliveries (event_id, handler, tenant, serial)
SELECT id, handler, tenant, CASE WHEN handler IN (SELECT s.handler FROM serial_handlers AS s) THEN
           (SELECT e.subject FROM events AS e WHERE e.id = it.id) END
FROM unnest(%(ids)b::uuid[], %(handlers)b::text[], %(tenants)b::text[]) AS it(id, handler, tenant);

-- Runs after `insert_receipts`, as a statement of its own: it sees what the other batch committed. An entry whose
-- receipt names itself was read again after a crash and is no arrival.
-- name: insert_arrivals
WITH found AS MATERIALIZED (
    SELECT a.id, r.first_id, a.tenant, a.provider, a.received_at, a.secret_label
    FROM unnest(
        %(ids)b::uuid[], %(tenants)b::text[], %(providers)b::text[], %(fingerprints)b::bytea[],
        %(received_ats)b::timestamptz[], %(secret_labels)b::text[]
    ) AS a(id, tenant, provider, fingerprint, received_at, secret_label)
    CROSS JOIN LATERAL (
        SELECT r.event_id AS first_id FROM receipts AS r
        WHERE r.tenant = a.tenant AND r.provider = a.provider AND r.fingerprint = a.fingerprint LIMIT 1
    ) AS r
), arrived AS (
    INSERT INTO arrivals (id, first_id, tenant, provider, received_at, secret_label)
    SELECT id, first_id, tenant, provider, received_at, secret_label FROM found WHERE id <> first_id ORDER BY id
    ON CONFLICT DO NOTHING
    RETURNING id, tenant, provider, received_at
), tallied AS (
    INSERT INTO tallies_new (tenant, provider, outcome, seconds)
    SELECT tenant, provider, 'duplicate',
           array_agg(greatest(extract(epoch FROM clock_timestamp() - received_at), 0)::real)
    FROM arrived GROUP BY tenant, provider
)
SELECT (SELECT count(*) FROM found) AS found, (SELECT count(*) FROM arrived) AS arrived,
       (SELECT note_late(array_agg(id)) FROM arrived WHERE id < (SELECT uuid_at(date_trunc('day', now())))) AS noted;

-- Parsing again -----------------------------------------------------------------------------------------------------

-- name: list_rejected_after
SELECT id FROM events
WHERE state = 'rejected' AND id > %(after)s AND (%(reason)s::text IS NULL OR reject_reason = %(reason)s)
  AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s) AND (%(provider)s::text IS NULL OR provider = %(provider)s)
  AND (%(event_ids)b::uuid[] IS NULL OR id = ANY (%(event_ids)b::uuid[]))
ORDER BY id LIMIT %(most)s;

-- name: count_rejected
SELECT count(*) AS count FROM events
WHERE state = 'rejected' AND (%(reason)s::text IS NULL OR reject_reason = %(reason)s)
  AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s) AND (%(provider)s::text IS NULL OR provider = %(provider)s)
  AND (%(event_ids)b::uuid[] IS NULL OR id = ANY (%(event_ids)b::uuid[]));

-- Locked, so that two that parse it again do it one after the other.
-- name: lock_event
SELECT id, provider, tenant, received_at, headers, body, secret_label, state, reject_reason
FROM events WHERE id = %(id)s FOR UPDATE;

-- name: read_receipt
SELECT event_id FROM receipts
WHERE tenant = %(tenant)s AND provider = %(provider)s AND fingerprint = %(fingerprint)b;

-- name: accept_event
UPDATE events SET
    provider = %(provider)s, tenant = %(tenant)s, type = %(type)s, subject = %(subject)s,
    occurred_at = %(occurred_at)s, received_at = %(received_at)s, headers = %(headers)s::jsonb, body = %(body)b,
    secret_label = %(secret_label)s, fingerprint = %(fingerprint)b, state = 'accepted', reject_reason = NULL,
    notes = %(notes)s::text[]
WHERE id = %(id)s AND state = 'rejected';

-- name: reject_again
UPDATE events SET reject_reason = %(reject_reason)s, notes = %(notes)s::text[]
WHERE id = %(id)s AND state = 'rejected';

-- From one reason to the next by index probes.
-- name: list_reasons
WITH RECURSIVE reasons AS (
    (SELECT reject_reason AS reason, 1 AS number FROM events WHERE state = 'rejected' ORDER BY reject_reason LIMIT 1)
    UNION ALL
    SELECT (SELECT e.reject_reason FROM events AS e WHERE e.state = 'rejected' AND e.reject_reason > r.reason
            ORDER BY e.reject_reason LIMIT 1), r.number + 1
    FROM reasons AS r WHERE r.reason IS NOT NULL AND r.number <= %(most)s
)
SELECT r.reason,
       (SELECT count(*) FROM (SELECT FROM events AS e WHERE e.state = 'rejected' AND e.reject_reason = r.reason
                              LIMIT %(bound)s) AS bounded) AS count,
       (SELECT e.id FROM events AS e WHERE e.state = 'rejected' AND e.reject_reason = r.reason
        ORDER BY e.id DESC LIMIT 1) AS newest_id
FROM reasons AS r WHERE r.reason IS NOT NULL ORDER BY r.reason LIMIT %(most)s;
