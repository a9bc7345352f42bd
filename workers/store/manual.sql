-- Transitions by hand, in batches. Filters that are NULL select everything; the planner sees each value (never
-- prepared), so that what is given decides the index.

-- name: preview_retry
SELECT tenant, handler, count(*) AS count
FROM (
    SELECT tenant, handler FROM deliveries_done
    WHERE state = %(state)s
      AND (%(event_ids)b::uuid[] IS NULL OR event_id = ANY (%(event_ids)b::uuid[]))
      AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
      AND (%(handler)s::text IS NULL OR handler = %(handler)s)
      AND (%(since)s::timestamptz IS NULL OR event_id >= uuid_at(%(since)s))
      AND (%(incident)s::bigint IS NULL OR incident = %(incident)s)
      AND (%(until)s::timestamptz IS NULL OR event_id < uuid_at(%(until)s))
      AND (%(error)s::text IS NULL OR strpos(lower(last_error), lower(%(error)s)) > 0)
      AND (%(provider)s::text IS NULL AND %(type)s::text IS NULL OR (
          SELECT true FROM events AS e
          WHERE e.id = event_id AND (%(provider)s::text IS NULL OR e.provider = %(provider)s)
            AND (%(type)s::text IS NULL OR e.type = %(type)s)
          LIMIT 1
      ) IS NOT NULL)
    LIMIT %(most)s
) AS bounded
GROUP BY tenant, handler ORDER BY tenant, handler;

-- Where a step ends that looks at what the index cannot tell: the last of so many.
-- name: end_of_retry
SELECT tenant AS end_tenant, handler AS end_handler, event_id AS end_id FROM deliveries_done
WHERE state = %(state)s AND (tenant, handler, event_id) > (%(after_tenant)s, %(after_handler)s, %(after_id)s)
  AND (%(event_ids)b::uuid[] IS NULL OR event_id = ANY (%(event_ids)b::uuid[]))
  AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
  AND (%(handler)s::text IS NULL OR handler = %(handler)s)
  AND (%(since)s::timestamptz IS NULL OR event_id >= uuid_at(%(since)s))
  AND (%(until)s::timestamptz IS NULL OR event_id < uuid_at(%(until)s))
  AND (%(incident)s::bigint IS NULL OR incident = %(incident)s)
ORDER BY tenant, handler, event_id OFFSET 9999 LIMIT 1;

-- The fence is kept, so that nothing of an earlier run counts; attempts restart. What finished after `before` failed
-- again while we were at it.
-- name: retry
WITH chosen AS MATERIALIZED (
    SELECT event_id, handler FROM deliveries_done
    WHERE state = %(state)s AND finished_at < %(before)s
      AND (tenant, handler, event_id) > (%(after_tenant)s, %(after_handler)s, %(after_id)s)
      AND (%(end_id)s::uuid IS NULL OR (tenant, handler, event_id) <= (%(end_tenant)s, %(end_handler)s, %(end_id)s))
      AND (%(event_ids)b::uuid[] IS NULL OR event_id = ANY (%(event_ids)b::uuid[]))
      AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
      AND (%(handler)s::text IS NULL OR handler = %(handler)s)
      AND (%(since)s::timestamptz IS NULL OR event_id >= uuid_at(%(since)s))
      AND (%(incident)s::bigint IS NULL OR incident = %(incident)s)
      AND (%(until)s::timestamptz IS NULL OR event_id < uuid_at(%(until)s))
      AND (%(error)s::text IS NULL OR strpos(lower(last_error), lower(%(error)s)) > 0)
      AND (%(provider)s::text IS NULL AND %(type)s::text IS NULL OR (
          SELECT true FROM events AS e
          WHERE e.id = event_id AND (%(provider)s::text IS NULL OR e.provider = %(provider)s)
            AND (%(type)s::text IS NULL OR e.type = %(type)s)
          LIMIT 1
      ) IS NOT NULL)
    ORDER BY tenant, handler, event_id LIMIT %(most)s FOR UPDATE SKIP LOCKED
), taken AS (
    DELETE FROM deliveries_done AS d USING chosen AS c
    WHERE d.event_id = c.event_id AND d.handler = c.handler
    RETURNING d.event_id, d.handler, d.tenant, d.fence, d.last_error, d.created_at
), moved AS (
    INSERT INTO deliveries (event_id, handler, tenant, fence, last_error, created_at, serial)
    SELECT event_id, handler, tenant, fence, last_error, created_at,
           CASE WHEN handler IN (SELECT s.handler FROM serial_handlers AS s) THEN
               (SELECT e.subject FROM events AS e WHERE e.id = taken.event_id) END
    FROM taken
)
SELECT tenant, handler, event_id FROM taken ORDER BY tenant, handler, event_id;

-- name: preview_resend
SELECT tenant, handler, count(*) AS count
FROM (
    SELECT tenant, handler FROM deliveries_done
    WHERE state = 'succeeded'
      AND (%(event_ids)b::uuid[] IS NULL OR event_id = ANY (%(event_ids)b::uuid[]))
      AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
      AND (%(handler)s::text IS NULL OR handler = %(handler)s)
      AND (%(since)s::timestamptz IS NULL OR event_id >= uuid_at(%(since)s))
      AND (%(until)s::timestamptz IS NULL OR event_id < uuid_at(%(until)s))
      AND (%(error)s::text IS NULL OR strpos(lower(last_error), lower(%(error)s)) > 0)
      AND (%(provider)s::text IS NULL AND %(type)s::text IS NULL OR (
          SELECT true FROM events AS e
          WHERE e.id = event_id AND (%(provider)s::text IS NULL OR e.provider = %(provider)s)
            AND (%(type)s::text IS NULL OR e.type = %(type)s)
          LIMIT 1
      ) IS NOT NULL)
    LIMIT %(most)s
) AS bounded
GROUP BY tenant, handler ORDER BY tenant, handler;

-- No index leads to what has succeeded: a step looks at so many finished deliveries, whatever they are.
-- name: end_of_resend
SELECT event_id AS end_id, handler AS end_handler FROM deliveries_done
WHERE event_id >= %(after_id)s AND (event_id, handler) > (%(after_id)s, %(after_handler)s)
  AND (%(since)s::timestamptz IS NULL OR event_id >= uuid_at(%(since)s))
  AND (%(until)s::timestamptz IS NULL OR event_id < uuid_at(%(until)s))
ORDER BY event_id, handler OFFSET 4999 LIMIT 1;

-- name: resend
WITH chosen AS MATERIALIZED (
    SELECT event_id, handler FROM deliveries_done
    WHERE state = 'succeeded' AND finished_at < %(before)s
      AND event_id >= %(after_id)s AND (event_id, handler) > (%(after_id)s, %(after_handler)s)
      AND (%(end_id)s::uuid IS NULL
           OR event_id <= %(end_id)s AND (event_id, handler) <= (%(end_id)s, %(end_handler)s))
      AND (%(event_ids)b::uuid[] IS NULL OR event_id = ANY (%(event_ids)b::uuid[]))
      AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
      AND (%(handler)s::text IS NULL OR handler = %(handler)s)
      AND (%(since)s::timestamptz IS NULL OR event_id >= uuid_at(%(since)s))
      AND (%(until)s::timestamptz IS NULL OR event_id < uuid_at(%(until)s))
      AND (%(error)s::text IS NULL OR strpos(lower(last_error), lower(%(error)s)) > 0)
      AND (%(provider)s::text IS NULL AND %(type)s::text IS NULL OR (
          SELECT true FROM events AS e
          WHERE e.id = event_id AND (%(provider)s::text IS NULL OR e.provider = %(provider)s)
            AND (%(type)s::text IS NULL OR e.type = %(type)s)
          LIMIT 1
      ) IS NOT NULL)
    ORDER BY event_id, handler LIMIT %(most)s FOR UPDATE SKIP LOCKED
), taken AS (
    DELETE FROM deliveries_done AS d USING chosen AS c
    WHERE d.event_id = c.event_id AND d.handler = c.handler
    RETURNING d.event_id, d.handler, d.tenant, d.fence, d.created_at
), moved AS (
    INSERT INTO deliveries (event_id, handler, tenant, fence, created_at, serial)
    SELECT event_id, handler, tenant, fence, created_at,
           CASE WHEN handler IN (SELECT s.handler FROM serial_handlers AS s) THEN
               (SELECT e.subject FROM events AS e WHERE e.id = taken.event_id) END
    FROM taken
)
SELECT tenant, handler, event_id FROM taken ORDER BY event_id, handler;

-- name: preview_cancel
SELECT tenant, handler, count(*) AS count
FROM (
    SELECT tenant, handler FROM deliveries
    WHERE (%(event_ids)b::uuid[] IS NULL OR event_id = ANY (%(event_ids)b::uuid[]))
      AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
      AND (%(handler)s::text IS NULL OR handler = %(handler)s)
      AND (%(since)s::timestamptz IS NULL OR event_id >= uuid_at(%(since)s))
      AND (%(until)s::timestamptz IS NULL OR event_id < uuid_at(%(until)s))
      AND (%(error)s::text IS NULL OR strpos(lower(last_error), lower(%(error)s)) > 0)
      AND (%(provider)s::text IS NULL AND %(type)s::text IS NULL OR (
          SELECT true FROM events AS e
          WHERE e.id = event_id AND (%(provider)s::text IS NULL OR e.provider = %(provider)s)
            AND (%(type)s::text IS NULL OR e.type = %(type)s)
          LIMIT 1
      ) IS NOT NULL)
      AND (%(state)s::text IS NULL OR state = %(state)s)
      AND created_at <= %(before)s
    LIMIT %(most)s
) AS bounded
GROUP BY tenant, handler ORDER BY tenant, handler;

-- name: end_of_cancel
SELECT event_id AS end_id, handler AS end_handler FROM deliveries
WHERE (event_id, handler) > (%(after_id)s, %(after_handler)s)
  AND (%(event_ids)b::uuid[] IS NULL OR event_id = ANY (%(event_ids)b::uuid[]))
  AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
  AND (%(handler)s::text IS NULL OR handler = %(handler)s)
  AND (%(since)s::timestamptz IS NULL OR event_id >= uuid_at(%(since)s))
  AND (%(until)s::timestamptz IS NULL OR event_id < uuid_at(%(until)s))
ORDER BY event_id, handler OFFSET 9999 LIMIT 1;

-- Running ones are fenced out: their outcome will find no row. Rows in use this moment are left for the next pass.
-- The lanes get a mark, which the next admission moves: it does not see those that have nothing left.
-- name: cancel
WITH chosen AS MATERIALIZED (
    SELECT event_id, handler FROM deliveries
    WHERE (event_id, handler) > (%(after_id)s, %(after_handler)s)
      AND (%(end_id)s::uuid IS NULL OR (event_id, handler) <= (%(end_id)s, %(end_handler)s))
      AND (%(event_ids)b::uuid[] IS NULL OR event_id = ANY (%(event_ids)b::uuid[]))
      AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
      AND (%(handler)s::text IS NULL OR handler = %(handler)s)
      AND (%(since)s::timestamptz IS NULL OR event_id >= uuid_at(%(since)s))
      AND (%(until)s::timestamptz IS NULL OR event_id < uuid_at(%(until)s))
      AND (%(error)s::text IS NULL OR strpos(lower(last_error), lower(%(error)s)) > 0)
      AND (%(provider)s::text IS NULL AND %(type)s::text IS NULL OR (
          SELECT true FROM events AS e
          WHERE e.id = event_id AND (%(provider)s::text IS NULL OR e.provider = %(provider)s)
            AND (%(type)s::text IS NULL OR e.type = %(type)s)
          LIMIT 1
      ) IS NOT NULL)
      AND (%(state)s::text IS NULL OR state = %(state)s)
      AND created_at <= %(before)s
    ORDER BY event_id, handler LIMIT %(most)s FOR UPDATE SKIP LOCKED
), taken AS (
    DELETE FROM deliveries AS d USING chosen AS c
    WHERE d.event_id = c.event_id AND d.handler = c.handler
    RETURNING d.*
), moved AS (
    INSERT INTO deliveries_done (event_id, handler, tenant, state, attempt, fence, worker, last_error, created_at)
    SELECT event_id, handler, tenant, 'cancelled', attempt, fence + (state = 'running')::integer, worker, last_error,
           created_at
    FROM taken
), tallied AS (
    INSERT INTO tallies_new (tenant, handler, outcome, seconds)
    SELECT tenant, handler, 'cancelled', array_fill(NULL::real, ARRAY[count(*)::integer])
    FROM taken GROUP BY tenant, handler
), noted AS (
    INSERT INTO lane_marks (tenant, handler, low)
    SELECT DISTINCT tenant, handler, '0'::xid8 FROM taken WHERE ready ORDER BY tenant, handler ON CONFLICT DO NOTHING
)
SELECT tenant, handler, event_id FROM taken ORDER BY event_id, handler;

-- Between two backfills only: the second one must look after the first has committed.
-- name: lock_backfill
SELECT pg_advisory_xact_lock(hashtext('pipeline backfill'), hashtext(%(handler)s));

-- One page of events, whatever they are; subplans probe the deliveries by key for each wanted event. An event without
-- an open or finished delivery in this snapshot gets one: deliveries only move, and are made with their event. What has run
-- under a name that the handler had before does not run again.
-- name: backfill
WITH page AS MATERIALIZED (
    SELECT id, provider, tenant, type, state, subject, stored_at FROM events
    WHERE id > %(after)s AND id < uuid_at(%(until)s) AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
    ORDER BY id LIMIT %(most)s
), names AS MATERIALIZED (
    SELECT array_append(array_agg(name), %(handler)s) AS names FROM registered_handlers WHERE renamed_to = %(handler)s
), missing AS MATERIALIZED (
    SELECT p.id, p.tenant, p.subject FROM page AS p
    WHERE p.state = 'accepted'
      AND (%(stored_since)s::timestamptz IS NULL OR p.stored_at >= %(stored_since)s)
      AND (%(provider)s::text IS NULL OR p.provider = %(provider)s)
      AND (%(type)s::text IS NULL OR p.type = %(type)s
           OR right(%(type)s, 1) = '*' AND starts_with(p.type, left(%(type)s, -1)))
      AND (SELECT true FROM deliveries AS d
           WHERE d.event_id = p.id AND d.handler = ANY ((SELECT names FROM names)::text[]) LIMIT 1) IS NULL
      AND (SELECT true FROM deliveries_done AS d
           WHERE d.event_id = p.id AND d.handler = ANY ((SELECT names FROM names)::text[]) LIMIT 1) IS NULL
), made AS (
    INSERT INTO deliveries (event_id, handler, tenant, serial)
    SELECT id, %(handler)s, tenant, CASE WHEN %(handler)s IN (SELECT s.handler FROM serial_handlers AS s) THEN subject END
    FROM missing WHERE NOT %(dry_run)s
    ON CONFLICT DO NOTHING
    RETURNING tenant
)
SELECT (SELECT count(*) FROM page) AS events,
       (SELECT id FROM page ORDER BY id DESC LIMIT 1) AS last_id,
       (SELECT count(*) FROM missing) AS missing,
       (SELECT count(*) FROM made) AS made,
       (SELECT coalesce(jsonb_object_agg(tenant, count), '{}') FROM (
           SELECT tenant, count(*) AS count FROM made GROUP BY tenant
       ) AS of_tenant) AS tenants;

-- name: count_events
SELECT count(*) AS count FROM events
WHERE id >= uuid_at(%(since)s) AND id < uuid_at(%(until)s) AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s);

-- name: first_id
SELECT uuid_at(%(since)s) AS id;

-- name: now
SELECT clock_timestamp() AS now;
