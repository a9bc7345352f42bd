-- What people read. Nothing here scans history: each query has a key, a range of ids or a bound. Filters that are NULL
-- select everything; the planner sees each value (never prepared), so that what is given decides the index.

-- name: find_first
-- A duplicate's own id tells the event that it repeats.
SELECT first_id FROM arrivals WHERE id = %(id)s;

-- name: read_event
SELECT id, provider, tenant, type, subject, occurred_at, received_at, stored_at, headers, length(body) AS body_bytes,
       secret_label, state, reject_reason, notes
FROM events WHERE id = %(id)s;

-- name: read_body
SELECT body FROM events WHERE id = %(id)s;

-- name: read_arrivals
SELECT id, received_at, secret_label FROM arrivals WHERE first_id = %(id)s ORDER BY id LIMIT %(most)s;

-- name: read_deliveries
SELECT handler, state, attempt, fence, due_at, lease_until, worker, last_error, created_at, finished_at
FROM all_deliveries WHERE event_id = %(id)s ORDER BY created_at, handler;

-- name: read_attempts
SELECT handler, fence, attempt, error, traceback, duration, worker, failed_at
FROM attempts WHERE event_id = %(id)s ORDER BY fence;

-- A type has no index: it is looked for among the newest 100,000 of what else was asked for.
-- name: list_events
SELECT id, provider, tenant, type, subject, received_at, stored_at, secret_label, state, reject_reason
FROM (
    SELECT id, provider, tenant, type, subject, received_at, stored_at, secret_label, state, reject_reason
    FROM events
    WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
      AND (%(state)s::text IS NULL OR state = %(state)s)
      AND (%(since)s::timestamptz IS NULL OR id >= uuid_at(%(since)s))
    ORDER BY id DESC LIMIT 100000
) AS newest
WHERE %(type)s::text IS NULL OR type = %(type)s
ORDER BY id DESC LIMIT %(most)s;

-- Deliveries of each event by state; of those that are pending, what waits for its next attempt by itself.
-- name: read_outcomes
SELECT it.id, d.state, count(*) AS count
FROM unnest(%(ids)b::uuid[]) AS it(id) CROSS JOIN LATERAL (
    SELECT CASE WHEN state = 'pending' AND NOT ready AND due_at < parked() THEN 'retrying' ELSE state END AS state
    FROM deliveries WHERE event_id = it.id
    UNION ALL
    SELECT state FROM deliveries_done WHERE event_id = it.id
) AS d
GROUP BY it.id, d.state ORDER BY it.id, d.state;

-- Of a tenant: by the index of what is due and that of what waits, or by the key, whichever is shorter.
-- name: list_pending_of_tenant
SELECT * FROM (
    (SELECT event_id, handler, tenant, state, attempt, due_at, lease_until, worker, last_error, created_at,
            NULL::timestamptz AS finished_at
     FROM deliveries
     WHERE ready AND tenant = %(tenant)s
       AND (%(handler)s::text IS NULL OR handler = %(handler)s)
       AND (%(before_id)s::uuid IS NULL OR (event_id, handler) < (%(before_id)s, %(before_handler)s))
     ORDER BY event_id DESC, handler DESC LIMIT %(most)s)
    UNION ALL
    (SELECT event_id, handler, tenant, state, attempt, due_at, lease_until, worker, last_error, created_at, NULL
     FROM deliveries
     WHERE state = 'pending' AND NOT ready AND tenant = %(tenant)s
       AND (%(handler)s::text IS NULL OR handler = %(handler)s)
       AND (%(before_id)s::uuid IS NULL OR (event_id, handler) < (%(before_id)s, %(before_handler)s))
     ORDER BY event_id DESC, handler DESC LIMIT %(most)s)
) AS pending
ORDER BY event_id DESC, handler DESC LIMIT %(most)s;

-- name: list_open
SELECT event_id, handler, tenant, state, attempt, due_at, lease_until, worker, last_error, created_at,
       NULL::timestamptz AS finished_at
FROM deliveries
WHERE state = %(state)s
  AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
  AND (%(handler)s::text IS NULL OR handler = %(handler)s)
  AND (%(before_id)s::uuid IS NULL OR (event_id, handler) < (%(before_id)s, %(before_handler)s))
ORDER BY event_id DESC, handler DESC LIMIT %(most)s;

-- name: list_failed
SELECT event_id, handler, tenant, state, attempt, NULL::timestamptz AS due_at, NULL::timestamptz AS lease_until, worker,
       last_error, created_at, finished_at
FROM deliveries_done
WHERE state = %(state)s
  AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
  AND (%(handler)s::text IS NULL OR handler = %(handler)s)
  AND (%(before_id)s::uuid IS NULL OR event_id <= %(before_id)s
                                      AND (event_id, handler) < (%(before_id)s, %(before_handler)s))
ORDER BY event_id DESC, handler DESC LIMIT %(most)s;

-- No index leads to what a handler has done with success.
-- name: list_succeeded
SELECT event_id, handler, tenant, state, attempt, NULL::timestamptz AS due_at, NULL::timestamptz AS lease_until, worker,
       last_error, created_at, finished_at
FROM (
    SELECT * FROM deliveries_done
    WHERE state = 'succeeded' AND (%(before_id)s::uuid IS NULL OR event_id <= %(before_id)s
                                   AND (event_id, handler) < (%(before_id)s, %(before_handler)s))
    ORDER BY event_id DESC, handler DESC LIMIT %(bound)s
) AS newest
WHERE %(handler)s::text IS NULL OR handler = %(handler)s
ORDER BY event_id DESC, handler DESC LIMIT %(most)s;

-- Nor to what a tenant's handlers have, but to its events.
-- name: list_succeeded_of_tenant
SELECT d.event_id, d.handler, d.tenant, d.state, d.attempt, NULL::timestamptz AS due_at, NULL::timestamptz AS lease_until,
       d.worker, d.last_error, d.created_at, d.finished_at
FROM (
    SELECT id FROM events
    WHERE tenant = %(tenant)s AND (%(before_id)s::uuid IS NULL OR id <= %(before_id)s)
    ORDER BY id DESC LIMIT %(bound)s
) AS e
CROSS JOIN LATERAL (
    SELECT * FROM deliveries_done AS d
    WHERE d.event_id = e.id AND d.state = 'succeeded' AND (%(handler)s::text IS NULL OR d.handler = %(handler)s)
      AND (%(before_id)s::uuid IS NULL OR (d.event_id, d.handler) < (%(before_id)s, %(before_handler)s))
    ORDER BY d.handler DESC OFFSET 0
) AS d
ORDER BY e.id DESC LIMIT %(most)s;

-- name: read_tenants
SELECT DISTINCT tenant FROM events WHERE id = ANY (%(ids)b::uuid[]);

-- The index of an incident's dead deliveries has them in the order of their events.
-- name: list_of_incident
SELECT event_id, handler, tenant, state, attempt, NULL::timestamptz AS due_at, NULL::timestamptz AS lease_until, worker,
       last_error, created_at, finished_at
FROM deliveries_done
WHERE state = 'dead' AND incident = %(incident)s
  AND (%(before_id)s::uuid IS NULL OR (event_id, handler) < (%(before_id)s, %(before_handler)s))
ORDER BY event_id DESC, handler DESC LIMIT %(most)s;
