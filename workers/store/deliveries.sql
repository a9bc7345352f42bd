-- Open work: admission, claims, outcomes. Every transition is conditional; a row that is not returned was somebody
-- else's. `state || ''` keeps the planner off the indexes of what is in flight, which it takes for nearly empty whenever
-- it has counted at rest: a message of 64 would read all that is in flight 64 times.

-- Nobody waits until an admission is on disk: if Postgres crashes and forgets one, its deliveries are pending again and
-- its messages are empty.
-- name: lock_admission
SELECT tenant, handler, set_config('synchronous_commit', 'off', true) FROM admission FOR UPDATE;

-- name: lock_admission_if_free
SELECT tenant, handler, set_config('synchronous_commit', 'off', true) FROM admission FOR UPDATE SKIP LOCKED;

-- Retries whose time has come enter the index that admission walks. By place in the table (locked rows keep it): a join
-- by key reads all of a table of 30,000 rows, because the planner expects many to be due.
-- name: promote_due
UPDATE deliveries SET ready = true
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM deliveries
    WHERE state = 'pending' AND NOT ready AND due_at <= now()
    ORDER BY due_at LIMIT 2000 FOR UPDATE SKIP LOCKED
));

-- A loose index scan: from the oldest due work of one lane to that of the next, beginning behind the lane served last,
-- once around; then, if fewer lanes than rows were found, as many more of each as make them up. Its cost is one index
-- probe per lane, whatever waits in it. The rows of a lane come oldest first; its place is its turn in the service.
-- The constant LIMIT is for the planner, which takes a computed one for a tenth of all rows and would sort the backlog;
-- LIMIT 1 on tenants keeps it from reading all of them.
-- name: list_candidates
WITH RECURSIVE ahead AS (
    (
        SELECT tenant, handler, event_id, alone, 1 AS place FROM deliveries
        WHERE ready AND (tenant, handler) > (%(tenant)s, %(handler)s)
        ORDER BY tenant, handler, due_at, event_id LIMIT 1
    )
    UNION ALL
    SELECT following.tenant, following.handler, following.event_id, following.alone, ahead.place + 1
    FROM ahead CROSS JOIN LATERAL (
        SELECT tenant, handler, event_id, alone FROM deliveries
        WHERE ready AND (tenant, handler) > (ahead.tenant, ahead.handler)
        ORDER BY tenant, handler, due_at, event_id LIMIT 1
    ) AS following
    WHERE ahead.place < %(most)s
), behind AS (
    (
        SELECT tenant, handler, event_id, alone, 1 AS place FROM deliveries
        WHERE ready AND (SELECT count(*) FROM ahead) < %(most)s
        ORDER BY tenant, handler, due_at, event_id LIMIT 1
    )
    UNION ALL
    SELECT following.tenant, following.handler, following.event_id, following.alone, behind.place + 1
    FROM behind CROSS JOIN LATERAL (
        SELECT tenant, handler, event_id, alone FROM deliveries
        WHERE ready AND (tenant, handler) > (behind.tenant, behind.handler)
        ORDER BY tenant, handler, due_at, event_id LIMIT 1
    ) AS following
    WHERE behind.place < %(most)s - (SELECT count(*) FROM ahead)
      AND (following.tenant, following.handler) <= (%(tenant)s, %(handler)s)
), lanes AS MATERIALIZED (
    SELECT lane.tenant, lane.handler, lane.event_id, lane.alone, lane.place, bounds.allowance
    FROM (
        SELECT tenant, handler, event_id, alone, place FROM ahead
        UNION ALL
        SELECT tenant, handler, event_id, alone, place + (SELECT count(*) FROM ahead) FROM behind
        WHERE (tenant, handler) <= (%(tenant)s, %(handler)s)
    ) AS lane LEFT JOIN LATERAL (
        SELECT CASE WHEN t.paused_at IS NOT NULL THEN 0 ELSE t.max_in_flight - (
                   SELECT count(*) FROM deliveries AS d WHERE d.tenant = lane.tenant AND d.state <> 'pending'
               ) END AS allowance
        FROM tenants AS t
        WHERE t.name = lane.tenant AND (t.paused_at IS NOT NULL OR t.max_in_flight IS NOT NULL) LIMIT 1
    ) AS bounds ON true
)
SELECT event_id, tenant, handler, place, alone, allowance FROM lanes
UNION ALL
SELECT younger.event_id, lanes.tenant, lanes.handler, lanes.place, younger.alone, lanes.allowance
FROM lanes CROSS JOIN LATERAL (
    SELECT event_id, alone FROM (
        SELECT event_id, alone FROM deliveries AS d
        WHERE d.ready AND d.tenant = lanes.tenant AND d.handler = lanes.handler
        ORDER BY d.tenant, d.handler, d.due_at, d.event_id LIMIT 100000
    ) AS oldest OFFSET 1 LIMIT (SELECT (%(most)s - 1) / greatest(count(*), 1) FROM lanes)
) AS younger
WHERE (SELECT count(*) FROM lanes) < %(most)s;

-- In the order of the primary key: what many lanes have chosen lies all over the table.
-- name: queue
UPDATE deliveries AS d SET state = 'queued', ready = false, lease_until = now() + make_interval(secs => %(wait)s)
FROM (
    SELECT id, handler FROM unnest(%(event_ids)b::uuid[], %(handlers)b::text[]) AS it(id, handler) ORDER BY id
) AS chosen
WHERE d.event_id = chosen.id AND d.handler = chosen.handler AND d.ready
RETURNING d.event_id, d.handler;

-- name: move_admission
UPDATE admission SET tenant = %(tenant)s, handler = %(handler)s;

-- name: unqueue
UPDATE deliveries AS d SET state = 'pending', ready = true, lease_until = NULL
FROM unnest(%(event_ids)b::uuid[]) AS returned(event_id)
WHERE d.event_id = returned.event_id AND d.handler = %(handler)s AND d.state = 'queued';

-- Rows are locked in order and those in use are left: two messages may carry the same delivery.
-- name: claim
UPDATE deliveries AS d
SET state = 'running', fence = d.fence + 1, worker = %(worker)s, alone = %(alone)s,
    lease_until = now() + make_interval(secs => %(lease)s)
FROM (
    SELECT event_id FROM deliveries
    WHERE event_id = ANY (%(event_ids)b::uuid[]) AND handler = %(handler)s AND state || '' = 'queued'
    ORDER BY event_id FOR UPDATE SKIP LOCKED
) AS mine
WHERE d.event_id = mine.event_id AND d.handler = %(handler)s
RETURNING d.event_id, d.tenant, d.attempt, d.fence;

-- The bounds let the planner leave out the partitions of other days.
-- name: read_events
SELECT id, provider, tenant, type, subject, received_at, headers, body, secret_label
FROM events
WHERE id = ANY (%(event_ids)b::uuid[]) AND id >= %(first)s AND id <= %(last)s;

-- Outcomes of one handler's deliveries. `retry_in` NULL: finished, as `state` says. Returns those that counted.
-- name: record
WITH outcome AS MATERIALIZED (
    SELECT * FROM unnest(
        %(event_ids)b::uuid[], %(fences)b::bigint[], %(states)s::text[], %(retry_ins)s::float8[],
        %(errors)s::text[], %(tracebacks)s::text[], %(durations)s::float8[]
    ) AS o(event_id, fence, state, retry_in, error, traceback, duration)
), finished AS (
    DELETE FROM deliveries AS d USING outcome AS o
    WHERE d.event_id = o.event_id AND d.handler = %(handler)s AND d.fence = o.fence AND d.state || '' = 'running'
      AND o.retry_in IS NULL
    RETURNING d.event_id, d.handler, d.tenant, o.state, d.attempt + 1 AS attempt, d.fence, d.worker,
              o.error, o.traceback, o.duration, d.created_at, d.last_error
), moved AS (
    INSERT INTO deliveries_done (event_id, handler, tenant, state, attempt, fence, worker, last_error, created_at)
    SELECT event_id, handler, tenant, state, attempt, fence, worker, coalesce(error, last_error), created_at
    FROM finished
), again AS (
    UPDATE deliveries AS d
    SET state = 'pending', ready = false, alone = false, attempt = d.attempt + 1, lease_until = NULL,
        due_at = now() + make_interval(secs => o.retry_in), last_error = o.error
    FROM outcome AS o
    WHERE d.event_id = o.event_id AND d.handler = %(handler)s AND d.fence = o.fence AND d.state || '' = 'running'
      AND o.retry_in IS NOT NULL
    RETURNING d.event_id, d.attempt, d.fence, d.worker, o.error, o.traceback, o.duration
), logged AS (
    INSERT INTO attempts (event_id, handler, fence, attempt, error, traceback, duration, worker)
    SELECT event_id, %(handler)s, fence, attempt, error, traceback, make_interval(secs => duration), worker
    FROM (
        SELECT event_id, fence, attempt, error, traceback, duration, worker FROM finished WHERE error IS NOT NULL
        UNION ALL
        SELECT event_id, fence, attempt, error, traceback, duration, worker FROM again
    ) AS failed
)
SELECT event_id FROM finished UNION ALL SELECT event_id FROM again;

-- The same for one success, in its handler's transaction: prepared on the handler's connection, run with the COMMIT
-- behind it in one round trip. What must not be committed ends in an error: no `event_id` when the outcome does not
-- count, no `tenant` when the transaction is not the one that was begun. Returns how many statements the handler has
-- prepared under names of its own.
-- name: record_success
WITH finished AS (
    DELETE FROM deliveries
    WHERE event_id = $1 AND handler = $2 AND fence = $3 AND state = 'running'
    RETURNING event_id, handler, tenant, attempt + 1 AS attempt, fence, worker, last_error, created_at
)
INSERT INTO deliveries_done (event_id, handler, tenant, state, attempt, fence, worker, last_error, created_at)
SELECT event_id, handler, CASE WHEN current_setting('pipeline.delivery', true) = $4 THEN tenant END, 'succeeded',
       attempt, fence, worker, last_error, created_at
FROM (SELECT) AS one LEFT JOIN finished ON true
RETURNING (SELECT count(*) FROM pg_catalog.pg_prepared_statements WHERE name <> 'pipeline_success');

-- name: hand_back
UPDATE deliveries AS d SET state = 'pending', ready = true, lease_until = NULL
FROM unnest(%(event_ids)b::uuid[], %(fences)b::bigint[]) AS held(event_id, fence)
WHERE d.event_id = held.event_id AND d.handler = %(handler)s AND d.fence = held.fence AND d.state || '' = 'running';
