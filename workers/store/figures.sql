-- What the exporter shows of this moment. Every look has a bound and an index. The bounds are constants: the planner takes
-- a computed LIMIT for a tenth of all rows.

-- name: open_work
SELECT (
           SELECT count(*) FROM (
               SELECT FROM deliveries WHERE ready ORDER BY tenant, handler, position, event_id LIMIT 10000
           ) AS bounded
       ) AS due, retrying.count AS retrying, retrying.late_seconds, parked.count AS parked, queued.count AS queued,
       queued.late_seconds AS queued_late_seconds, running.count AS running, running.late_seconds AS lease_late_seconds
FROM (
    SELECT count(*), extract(epoch FROM now() - min(due_at))::float8 AS late_seconds FROM (
        SELECT due_at FROM deliveries WHERE state = 'pending' AND NOT ready AND due_at < parked()
        ORDER BY due_at LIMIT 10000
    ) AS bounded
) AS retrying CROSS JOIN (
    SELECT count(*) FROM (
        SELECT FROM deliveries WHERE state = 'pending' AND NOT ready AND due_at >= parked() ORDER BY due_at LIMIT 10000
    ) AS bounded
) AS parked CROSS JOIN (
    SELECT count(*), extract(epoch FROM now() - min(lease_until))::float8 AS late_seconds FROM (
        SELECT lease_until FROM deliveries WHERE state = 'queued' ORDER BY lease_until LIMIT 10000
    ) AS bounded
) AS queued CROSS JOIN (
    SELECT count(*), extract(epoch FROM now() - min(lease_until))::float8 AS late_seconds FROM (
        SELECT lease_until FROM deliveries WHERE state = 'running' ORDER BY lease_until LIMIT 10000
    ) AS bounded
) AS running;

-- From the head of one lane to that of the next, by the steps of admission, which begin at the marks of lanes.
-- name: due_lanes
WITH RECURSIVE lane AS (
    SELECT tenant, handler, event_id, position, due_at, 1 AS number
    FROM next_ready(%(tenant)s, %(handler)s, '18446744073709551615', NULL)
    UNION ALL
    SELECT next.tenant, next.handler, next.event_id, next.position, next.due_at, lane.number + 1
    FROM lane CROSS JOIN LATERAL next_ready(
        lane.tenant, lane.handler,
        CASE WHEN lane.event_id IS NULL THEN lane.position ELSE '18446744073709551615' END, NULL
    ) AS next
    WHERE lane.number < 10000
)
SELECT lane.tenant, lane.handler, extract(epoch FROM lane.due_at)::float8 AS due_at, t.name IS NOT NULL OR EXISTS (
    SELECT FROM handler_pauses AS p WHERE p.handler = lane.handler AND p.tenant IN ('*', lane.tenant) OFFSET 0
) AS paused
FROM lane LEFT JOIN LATERAL (
    SELECT name FROM tenants WHERE name = lane.tenant AND paused_at IS NOT NULL LIMIT 1
) AS t ON true
WHERE lane.event_id IS NOT NULL;

-- name: count_due
SELECT tenant, (
    SELECT count(*) FROM (
        SELECT FROM deliveries AS d WHERE d.ready AND d.tenant = it.tenant
        ORDER BY d.tenant, d.handler, d.position, d.event_id LIMIT 1000
    ) AS bounded
) AS count
FROM unnest(%(tenants)s::text[]) AS it(tenant);

-- name: count_kept
SELECT (
           SELECT count(*) FROM (
               SELECT FROM deliveries_done WHERE state = 'dead' ORDER BY tenant, handler, event_id LIMIT 10000
           ) AS bounded
       ) AS dead, (
           SELECT count(*) FROM (
               SELECT FROM events WHERE state = 'rejected' ORDER BY reject_reason, id LIMIT 10000
           ) AS bounded
       ) AS rejected;

-- Of endpoints that usually send at least ten events in this hour: silent for ten of their usual gaps, and ten minutes.
-- name: silent_endpoints
SELECT a.tenant, a.provider,
       extract(epoch FROM now() - a.last_at)::float8 - greatest(600, 36000.0 / a.usual_per_hour)::float8 AS overdue_seconds
FROM endpoint_activity AS a
WHERE a.usual_per_hour >= 10 AND a.last_at < now() - interval '10 minutes'
  AND a.last_at < now() - make_interval(secs => 36000.0 / a.usual_per_hour)
  AND EXISTS (SELECT FROM endpoints AS e WHERE e.tenant = a.tenant AND e.provider = a.provider AND e.enabled OFFSET 0)
ORDER BY a.last_at LIMIT 20;

-- name: last_events
SELECT a.tenant, a.provider, extract(epoch FROM a.last_at)::float8 AS at
FROM unnest(%(tenants)s::text[], %(providers)s::text[]) AS it(tenant, provider) JOIN endpoint_activity AS a
  ON a.tenant = it.tenant AND a.provider = it.provider;

-- Indexes, whatever the statistics say of a table that grew since: without, 200,000 deliveries are read and sorted. Those
-- settings cost so much by the planner's count that it would compile every query.
-- name: begin_look
SELECT set_config('statement_timeout', %(timeout)s, false), set_config('enable_seqscan', 'off', false),
       set_config('enable_bitmapscan', 'off', false), set_config('jit', 'off', false), extract(epoch FROM clock_timestamp())::float8 AS now;

-- Open work for the handlers that somebody runs, up to 10,000 deliveries of each state; of what is due as many as its
-- tenant's cap lets run, and nothing of what is paused.
-- name: open_by_handler
WITH RECURSIVE lane AS (
    SELECT tenant, handler, event_id, position, 1 AS number
    FROM next_ready('', '', '18446744073709551615', NULL)
    UNION ALL
    SELECT next.tenant, next.handler, next.event_id, next.position, lane.number + 1
    FROM lane CROSS JOIN LATERAL next_ready(
        lane.tenant, lane.handler,
        CASE WHEN lane.event_id IS NULL THEN lane.position ELSE '18446744073709551615' END, NULL
    ) AS next
    WHERE lane.number < 1000
), due AS (
    SELECT found.handler FROM lane CROSS JOIN LATERAL (
        SELECT d.handler FROM deliveries AS d
        WHERE d.ready AND d.tenant = lane.tenant AND d.handler = lane.handler
        ORDER BY d.tenant, d.handler, d.position, d.event_id LIMIT (
            SELECT CASE WHEN t.paused_at IS NOT NULL THEN 0 ELSE t.max_in_flight END
            FROM tenants AS t WHERE t.name = lane.tenant
        )
    ) AS found
    WHERE lane.event_id IS NOT NULL AND (%(runnable)s::text[] IS NULL OR lane.handler = ANY (%(runnable)s::text[]))
      AND NOT EXISTS (
          SELECT FROM handler_pauses AS p WHERE p.handler = lane.handler AND p.tenant IN ('*', lane.tenant) OFFSET 0
      )
    LIMIT 10000
), sent AS (
    (SELECT handler FROM deliveries WHERE state = 'queued' ORDER BY lease_until LIMIT 10000)
    UNION ALL
    (SELECT handler FROM deliveries WHERE state = 'running' ORDER BY lease_until LIMIT 10000)
)
SELECT handler, count(*) AS count FROM (SELECT handler FROM due UNION ALL SELECT handler FROM sent) AS open GROUP BY handler;
