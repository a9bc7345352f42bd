-- Open work: admission, claims, outcomes. Every transition is conditional; a row that is not returned was somebody
-- else's. `state || ''` keeps the planner off the indexes of what is in flight, which it takes for nearly empty whenever
-- it has counted at rest: a message of 64 would read all that is in flight 64 times. Rows that are named are looked up one
-- by one (LATERAL, LIMIT 1) and changed by their place in the table: a join by key that was planned while the table was
-- empty reads all of it, until Postgres analyzes it again.
--
-- A statement that waits for rows locks them in the order of their keys, before it changes any: two of them cannot wait
-- for each other. One that comes late also locks rows that it will not change, because they were its own when it began.
-- The others leave out what is locked.

-- Nobody waits until an admission is on disk: if Postgres crashes and forgets one, its deliveries are pending again and
-- its messages are empty.
-- name: lock_admission
SELECT tenant, express, extract(epoch FROM clock_timestamp() - express_at)::float8 AS express_age,
       coalesce((SELECT true FROM handler_limits LIMIT 1), (SELECT true FROM handler_pauses LIMIT 1)) IS NOT NULL AS limited,
       (SELECT true FROM serial_handlers LIMIT 1) IS NOT NULL AS serial, set_config('synchronous_commit', 'off', true),
       pg_stat_get_xact_tuples_returned('deliveries_position'::regclass) AS walked
FROM admission FOR UPDATE;

-- name: lock_admission_if_free
SELECT tenant, express, extract(epoch FROM clock_timestamp() - express_at)::float8 AS express_age,
       coalesce((SELECT true FROM handler_limits LIMIT 1), (SELECT true FROM handler_pauses LIMIT 1)) IS NOT NULL AS limited,
       (SELECT true FROM serial_handlers LIMIT 1) IS NOT NULL AS serial, set_config('synchronous_commit', 'off', true),
       pg_stat_get_xact_tuples_returned('deliveries_position'::regclass) AS walked
FROM admission FOR UPDATE SKIP LOCKED;

-- Retries whose time has come enter the index that admission walks. By place in the table (locked rows keep it): a join
-- by key reads all of a table of 30,000 rows, because the planner expects many to be due.
-- name: promote_due
UPDATE deliveries SET ready = true, position = pg_current_xact_id()
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM deliveries
    WHERE state = 'pending' AND NOT ready AND due_at <= now()
    ORDER BY due_at LIMIT 2000 FOR UPDATE SKIP LOCKED
));

-- Loose index scans: from the first due work of one tenant to that of the next, beginning after the tenant served last,
-- once around; the same within each tenant, from handler to handler; then the oldest deliveries of each lane, as many of
-- each as make up `most`. The cost is some index probes per tenant and lane, whatever waits in them; `next_ready` begins
-- each lane at its mark. `place` is the turn of a tenant, `lane` that of a handler within its tenant. A tenant is
-- `crowded` if more than `few` of its deliveries are due (those of lanes with a mark count apart), or 256 others come
-- before it; without room for them, those are not read. Where so many tenants wait that each has one lane, no handler is
-- looked for. The constant LIMIT is for the planner, which takes a computed one for a tenth of all rows and would sort the
-- backlog; LIMIT 1 on small tables keeps it from reading all of them, and EXISTS, asked once, from looking into an empty
-- one for each tenant. While no lane has a mark, mostly, the walk and the count do without the joins that marks need: they
-- were a quarter of what 256 tenants cost. `walked` is what has been read of the index, dead entries included, by the last row.
-- name: list_candidates
WITH RECURSIVE ahead AS (
    SELECT tenant, handler, event_id, alone, position, (event_id IS NOT NULL)::integer AS place
    FROM next_ready(%(after)s, U&'\+10FFFF', '0', NULL)
    UNION ALL
    SELECT following.tenant, following.handler, following.event_id, following.alone, following.position,
           ahead.place + (following.event_id IS NOT NULL)::integer
    FROM ahead CROSS JOIN LATERAL (
        SELECT * FROM (
            SELECT d.tenant COLLATE "default" AS tenant, d.handler COLLATE "default" AS handler, d.event_id, d.alone, d.position
            FROM deliveries AS d
            WHERE d.ready AND d.tenant > ahead.tenant COLLATE "C" AND NOT EXISTS (SELECT FROM lane_marks)
            ORDER BY d.tenant, d.handler, d.position, d.event_id LIMIT 1
        ) AS unmarked
        UNION ALL
        SELECT n.tenant, n.handler, n.event_id, n.alone, n.position
        FROM next_tenant(ahead.tenant, ahead.handler, ahead.event_id, ahead.position, NULL) AS n
        WHERE EXISTS (SELECT FROM lane_marks)
    ) AS following
    WHERE ahead.place < %(tenants)s
), counted AS (
    SELECT count(event_id) AS ahead FROM ahead
), behind AS (
    SELECT tenant, handler, event_id, alone, position, (event_id IS NOT NULL)::integer AS place
    FROM next_ready('', '', '0', %(after)s)
    WHERE (SELECT ahead FROM counted) < %(tenants)s
    UNION ALL
    SELECT following.tenant, following.handler, following.event_id, following.alone, following.position,
           behind.place + (following.event_id IS NOT NULL)::integer
    FROM behind CROSS JOIN LATERAL
         next_tenant(behind.tenant, behind.handler, behind.event_id, behind.position, %(after)s) AS following
    WHERE behind.place < %(tenants)s - (SELECT ahead FROM counted)
), turns AS MATERIALIZED (
    SELECT turn.tenant, turn.handler, turn.event_id, turn.alone, turn.position, turn.place, bounds.weight,
           bounds.allowance, last.handler AS after,
           turn.place > 256 OR CASE WHEN NOT EXISTS (SELECT FROM lane_marks) THEN (
               SELECT true FROM deliveries AS d
               WHERE d.ready AND d.tenant = turn.tenant
               ORDER BY d.tenant, d.handler, d.position, d.event_id OFFSET %(few)s LIMIT 1
           ) ELSE (
               SELECT true
               FROM (
                   SELECT turn.handler, turn.position AS low
                   UNION ALL
                   SELECT m.handler, m.low FROM lane_marks AS m
                   WHERE m.tenant = turn.tenant AND m.handler > turn.handler AND EXISTS (SELECT FROM lane_marks)
               ) AS range LEFT JOIN LATERAL (
                   SELECT n.handler FROM lane_marks AS n
                   WHERE n.tenant = turn.tenant AND n.handler > range.handler AND EXISTS (SELECT FROM lane_marks)
                   ORDER BY n.tenant, n.handler LIMIT 1
               ) AS until ON true CROSS JOIN LATERAL (
                   SELECT FROM deliveries AS d
                   WHERE d.ready AND (d.tenant, d.handler, d.position) >= (turn.tenant, range.handler, range.low)
                     AND (d.tenant, d.handler) < (turn.tenant, coalesce(until.handler, U&'\+10FFFF'))
                   ORDER BY d.tenant, d.handler, d.position, d.event_id OFFSET %(few)s LIMIT 1
               ) AS due
               LIMIT 1
           ) END IS NOT NULL AS crowded
    FROM (
        SELECT tenant, handler, event_id, alone, position, place FROM ahead WHERE event_id IS NOT NULL
        UNION ALL
        SELECT tenant, handler, event_id, alone, position, place + (SELECT ahead FROM counted)
        FROM behind WHERE event_id IS NOT NULL
    ) AS turn LEFT JOIN LATERAL (
        SELECT t.weight, CASE WHEN t.paused_at IS NOT NULL THEN 0 ELSE t.max_in_flight - (
                   SELECT count(*) FROM deliveries AS d WHERE d.tenant = turn.tenant AND d.state <> 'pending'
               ) END AS allowance
        FROM tenants AS t
        WHERE t.name = turn.tenant
          AND (t.paused_at IS NOT NULL OR t.max_in_flight IS NOT NULL OR t.weight <> 1) LIMIT 1
    ) AS bounds ON true LEFT JOIN LATERAL (
        SELECT a.handler FROM admission_turns AS a
        WHERE a.tenant = turn.tenant AND EXISTS (SELECT FROM admission_turns) LIMIT 1
    ) AS last ON true
), quota AS MATERIALIZED (
    SELECT least(%(lanes)s, 1 + (%(most)s - 1) / greatest(count(*), 1)) AS lanes FROM turns
), lanes AS MATERIALIZED (
    SELECT tenant, place, weight, allowance, crowded, handler, event_id, alone, position, 1 AS lane
    FROM turns
    WHERE after IS NULL AND (SELECT lanes FROM quota) = 1 AND (%(room)s > 0 OR NOT crowded)
    UNION ALL
    SELECT turns.tenant, turns.place, turns.weight, turns.allowance, turns.crowded,
           own.handler, own.event_id, own.alone, own.position, own.lane
    FROM turns CROSS JOIN LATERAL (
        WITH RECURSIVE onward AS (
            SELECT turns.handler, turns.event_id, turns.alone, turns.position, 1 AS lane WHERE turns.after IS NULL
            UNION ALL
            SELECT first.handler, first.event_id, first.alone, first.position, (first.event_id IS NOT NULL)::integer
            FROM next_ready(turns.tenant, turns.after, '18446744073709551615', turns.tenant) AS first
            WHERE turns.after IS NOT NULL
            UNION ALL
            SELECT following.handler, following.event_id, following.alone, following.position,
                   onward.lane + (following.event_id IS NOT NULL)::integer
            FROM onward CROSS JOIN LATERAL
                 next_lane(turns.tenant, onward.handler, onward.event_id, onward.position) AS following
            WHERE onward.lane < (SELECT lanes FROM quota)
        ), again AS (
            SELECT turns.handler, turns.event_id, turns.alone, turns.position, 1 AS lane
            WHERE turns.after IS NOT NULL AND (SELECT count(event_id) FROM onward) < (SELECT lanes FROM quota)
            UNION ALL
            SELECT following.handler, following.event_id, following.alone, following.position,
                   again.lane + (following.event_id IS NOT NULL)::integer
            FROM again CROSS JOIN LATERAL
                 next_lane(turns.tenant, again.handler, again.event_id, again.position) AS following
            WHERE again.lane < (SELECT lanes FROM quota) - (SELECT count(event_id) FROM onward)
              AND following.handler <= turns.after
        )
        SELECT handler, event_id, alone, position, lane FROM onward WHERE event_id IS NOT NULL
        UNION ALL
        SELECT handler, event_id, alone, position, lane + (SELECT count(event_id) FROM onward)
        FROM again WHERE event_id IS NOT NULL AND handler <= turns.after
    ) AS own
    WHERE (turns.after IS NOT NULL OR (SELECT lanes FROM quota) > 1) AND (%(room)s > 0 OR NOT turns.crowded)
)
SELECT event_id, tenant, handler, alone, place, lane, weight, allowance, crowded,
       pg_stat_get_xact_tuples_returned('deliveries_position'::regclass) AS walked
FROM lanes
UNION ALL
SELECT younger.event_id, lanes.tenant, lanes.handler, younger.alone, lanes.place, lanes.lane, lanes.weight,
       lanes.allowance, lanes.crowded,
       pg_stat_get_xact_tuples_returned('deliveries_position'::regclass)
FROM lanes CROSS JOIN LATERAL (
    SELECT event_id, alone FROM (
        SELECT event_id, alone FROM deliveries AS d
        WHERE d.ready AND d.tenant = lanes.tenant AND d.handler = lanes.handler AND d.position >= lanes.position
        ORDER BY d.tenant, d.handler, d.position, d.event_id LIMIT 100000
    ) AS oldest OFFSET 1 LIMIT (SELECT (%(most)s - 1) / greatest(count(*), 1) FROM lanes)
) AS younger
WHERE (SELECT count(*) FROM lanes) < %(most)s;

-- In the order of the primary key: what many lanes have chosen lies all over the table. A plain `ready` would let the
-- planner take an index of all that is ready.
-- name: queue
UPDATE deliveries SET state = 'queued', ready = false, lease_until = now() + make_interval(secs => %(wait)s)
WHERE ctid = ANY (ARRAY(
    SELECT found.place
    FROM (
        SELECT id, handler FROM unnest(%(event_ids)b::uuid[], %(handlers)b::text[]) AS it(id, handler) ORDER BY id
    ) AS chosen CROSS JOIN LATERAL (
        SELECT d.ctid AS place FROM deliveries AS d
        WHERE d.event_id = chosen.id AND d.handler = chosen.handler AND d.ready::integer = 1
        LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS found
))
RETURNING event_id, handler;

-- name: move_admission
UPDATE admission SET tenant = %(tenant)s, express = %(express)s::jsonb, express_at = clock_timestamp();

-- name: move_turns
INSERT INTO admission_turns (tenant, handler)
SELECT tenant, handler FROM unnest(%(tenants)s::text[], %(handlers)s::text[]) AS turn(tenant, handler) ORDER BY tenant
ON CONFLICT (tenant) DO UPDATE SET handler = excluded.handler;

-- Alone with the lock, which those share that bring a delivery back to its old place: none of them is under way.
-- name: lock_marks
SELECT pg_try_advisory_xact_lock(hashtext('pipeline lane marks')) AS locked;

-- The first ready delivery of each lane that has a mark or was seen, or the oldest transaction that may still make one.
-- With `anew`, each lane is walked from its beginning.
-- name: mark_lanes
INSERT INTO lane_marks AS m (tenant, handler, low)
SELECT lane.tenant, lane.handler, least(first.position, pg_snapshot_xmin(pg_current_snapshot()))
FROM (
    SELECT tenant, handler, CASE WHEN %(anew)s THEN '0' ELSE low END AS low FROM lane_marks
    UNION ALL
    SELECT seen.tenant, seen.handler, '0' FROM unnest(%(tenants)s::text[], %(handlers)s::text[]) AS seen(tenant, handler)
    WHERE NOT EXISTS (SELECT FROM lane_marks AS k WHERE k.tenant = seen.tenant AND k.handler = seen.handler)
) AS lane LEFT JOIN LATERAL (
    SELECT d.position FROM deliveries AS d
    WHERE d.ready AND d.tenant = lane.tenant AND d.handler = lane.handler AND d.position >= lane.low
    ORDER BY d.tenant, d.handler, d.position LIMIT 1
) AS first ON true
ORDER BY lane.tenant, lane.handler
ON CONFLICT (tenant, handler) DO UPDATE SET low = excluded.low WHERE m.low <> excluded.low;

-- name: count_walked
SELECT pg_stat_get_xact_tuples_returned('deliveries_position'::regclass) AS walked;

-- name: forget_marks
DELETE FROM lane_marks;

-- name: unqueue
UPDATE deliveries SET state = 'pending', ready = true, lease_until = NULL
WHERE ctid = ANY (ARRAY(
    SELECT found.place
    FROM (
        SELECT event_id FROM unnest(%(event_ids)b::uuid[]) AS it(event_id) ORDER BY event_id
    ) AS returned CROSS JOIN LATERAL (
        SELECT d.ctid AS place FROM deliveries AS d
        WHERE d.event_id = returned.event_id AND d.handler = %(handler)s AND d.state || '' = 'queued'
        LIMIT 1 FOR UPDATE
    ) AS found
));

-- Rows are locked, and those in use are left: two messages may carry the same delivery.
-- name: claim
UPDATE deliveries
SET state = 'running', fence = fence + 1, token = gen_random_uuid(), worker = %(worker)s, alone = %(alone)s,
    lease_until = now() + make_interval(secs => %(lease)s)
WHERE ctid = ANY (ARRAY(
    SELECT found.place
    FROM unnest(%(event_ids)b::uuid[]) AS sent(event_id) CROSS JOIN LATERAL (
        SELECT d.ctid AS place FROM deliveries AS d
        WHERE d.event_id = sent.event_id AND d.handler = %(handler)s AND d.state || '' = 'queued'
        LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS found
))
RETURNING event_id, tenant, attempt, fence, token, (
    SELECT t.settings FROM tenants AS t WHERE t.name = deliveries.tenant AND t.settings <> '{}' LIMIT 1
) AS settings;

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
), held AS MATERIALIZED (
    SELECT o.*, found.place
    FROM (SELECT * FROM outcome ORDER BY event_id) AS o CROSS JOIN LATERAL (
        SELECT d.ctid AS place FROM deliveries AS d
        WHERE d.event_id = o.event_id AND d.handler = %(handler)s AND d.fence = o.fence AND d.state || '' = 'running'
        LIMIT 1 FOR UPDATE
    ) AS found
), finished AS (
    DELETE FROM deliveries AS d USING held AS o
    WHERE d.ctid = o.place AND o.retry_in IS NULL
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
    FROM held AS o
    WHERE d.ctid = o.place AND o.retry_in IS NOT NULL
    RETURNING d.event_id, d.tenant, d.attempt, d.fence, d.worker, o.error, o.traceback, o.duration
), tallied AS (
    INSERT INTO tallies_new (tenant, handler, outcome, seconds, waits)
    SELECT tenant, %(handler)s, outcome, array_agg(duration::real), array_remove(array_agg(waited), NULL)
    FROM (
        SELECT tenant, state AS outcome, duration,
               extract(epoch FROM clock_timestamp() - created_at)::real AS waited
        FROM finished
        UNION ALL
        SELECT tenant, 'retried', duration, NULL FROM again
    ) AS ended GROUP BY tenant, outcome
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

-- name: hand_back
UPDATE deliveries SET state = 'pending', ready = true, lease_until = NULL
WHERE ctid = ANY (ARRAY(
    SELECT found.place
    FROM (
        SELECT * FROM unnest(%(event_ids)b::uuid[], %(fences)b::bigint[]) AS it(event_id, fence) ORDER BY event_id
    ) AS held CROSS JOIN LATERAL (
        SELECT d.ctid AS place FROM deliveries AS d
        WHERE d.event_id = held.event_id AND d.handler = %(handler)s AND d.fence = held.fence
          AND d.state || '' = 'running'
        LIMIT 1 FOR UPDATE
    ) AS found
));
