-- What the sweeper picks up: losses, told apart by whether they were alone.

-- name: list_expired
SELECT event_id, handler, tenant, attempt, fence, alone, worker FROM deliveries
WHERE state = 'running' AND lease_until < now()
ORDER BY lease_until LIMIT 500 FOR UPDATE SKIP LOCKED;

-- Lost while claimed in company: nobody knows whose fault it was, so nobody is charged; next time each runs alone.
-- name: return_uncharged
WITH lost AS (
    UPDATE deliveries AS d SET state = 'pending', ready = true, alone = true, lease_until = NULL, last_error = %(error)s
    FROM unnest(%(event_ids)b::uuid[], %(handlers)s::text[]) AS l(event_id, handler) CROSS JOIN LATERAL (
        SELECT o.ctid AS place FROM deliveries AS o WHERE o.event_id = l.event_id AND o.handler = l.handler LIMIT 1
    ) AS found
    WHERE d.ctid = found.place AND d.state || '' = 'running' AND d.lease_until < now()
    RETURNING d.event_id, d.handler, d.fence, d.attempt, d.worker
)
INSERT INTO attempts (event_id, handler, fence, attempt, error, worker)
SELECT event_id, handler, fence, attempt, %(error)s, worker FROM lost;

-- A claim whose worker was lost; what becomes of the delivery counts for itself.
-- name: count_lost
INSERT INTO tallies_new (tenant, handler, outcome, seconds)
SELECT tenant, handler, 'lost', array_fill(NULL::real, ARRAY[count(*)::integer])
FROM unnest(%(tenants)s::text[], %(handlers)s::text[]) AS it(tenant, handler) GROUP BY tenant, handler;

-- name: keep_alone
UPDATE deliveries AS d SET alone = true
FROM unnest(%(event_ids)b::uuid[]) AS l(event_id) CROSS JOIN LATERAL (
    SELECT o.ctid AS place FROM deliveries AS o WHERE o.event_id = l.event_id AND o.handler = %(handler)s LIMIT 1
) AS found
WHERE d.ctid = found.place AND d.state || '' = 'pending';

-- name: have_queued_late
SELECT EXISTS (SELECT FROM deliveries WHERE state = 'queued' AND lease_until < now()) AS late;

-- name: are_queued_late
SELECT EXISTS (
    SELECT FROM unnest(%(event_ids)b::uuid[], %(handlers)s::text[]) AS named(event_id, handler) CROSS JOIN LATERAL (
        SELECT state, lease_until FROM deliveries AS d
        WHERE d.event_id = named.event_id AND d.handler = named.handler LIMIT 1
    ) AS d
    WHERE d.state = 'queued' AND d.lease_until < now()
) AS late;

-- Messages that nobody will deliver: the wait is over, and none that is left names the delivery.
-- name: return_queued
UPDATE deliveries SET state = 'pending', ready = true, lease_until = NULL
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM deliveries
    WHERE state = 'queued' AND lease_until < now() AND (event_id, handler) NOT IN (
        SELECT * FROM unnest(%(event_ids)b::uuid[], %(handlers)s::text[])
    )
    ORDER BY lease_until LIMIT 5000 FOR UPDATE SKIP LOCKED
))
RETURNING event_id;

-- From lane to lane, 10,000 at the most.
-- name: list_ready_handlers
WITH RECURSIVE lane AS (
    (SELECT tenant, handler, 1 AS number FROM deliveries WHERE ready ORDER BY tenant, handler LIMIT 1)
    UNION ALL
    SELECT next.tenant, next.handler, lane.number + 1 FROM lane CROSS JOIN LATERAL (
        SELECT tenant, handler FROM deliveries WHERE ready AND (tenant, handler) > (lane.tenant, lane.handler)
        ORDER BY tenant, handler LIMIT 1
    ) AS next
    WHERE lane.number < 10000
)
SELECT DISTINCT handler FROM lane ORDER BY handler;

-- A worker was sent deliveries of a handler that it does not know: another one may know it. No attempt is counted.
-- name: return_unknown
UPDATE deliveries
SET state = 'pending', lease_until = NULL, last_error = %(error)s, due_at = now() + make_interval(secs => %(wait)s)
WHERE ctid = ANY (ARRAY(
    SELECT found.place
    FROM (SELECT event_id FROM unnest(%(event_ids)b::uuid[]) AS it(event_id) ORDER BY event_id) AS sent CROSS JOIN LATERAL (
        SELECT d.ctid AS place FROM deliveries AS d
        WHERE d.event_id = sent.event_id AND d.handler = %(handler)s AND d.state || '' = 'queued' LIMIT 1 FOR UPDATE
    ) AS found
));
