-- Limits of handlers, over all workers. Rates count what is admitted: a bucket holds what one second brings.

-- What the limits of handlers still admit, of those that these lanes fall under; a limit counts what is in flight once,
-- whichever tenant it belongs to. What is in flight is read once, through its index. A pause admits nothing.
-- name: list_allowances
WITH in_flight AS MATERIALIZED (
    SELECT tenant, handler FROM deliveries WHERE state = 'queued'
    UNION ALL
    SELECT tenant, handler FROM deliveries WHERE state = 'running'
)
SELECT l.handler, l.tenant, l.rate,
       l.max_in_flight - (
           SELECT count(*) FROM in_flight AS f
           WHERE f.handler = l.handler AND (l.tenant = '*' OR f.tenant = l.tenant)
       ) AS in_flight_left,
       CASE WHEN l.rate IS NOT NULL THEN
           -- what a rate brings is bounded, for an overflow would be an error, and end the admission of everybody
           least(greatest(l.rate, 1), l.tokens + least(l.rate, 1e9) * extract(epoch FROM moment.at - l.counted_at))
       END AS tokens, moment.at
FROM handler_limits AS l, (SELECT clock_timestamp() AS at OFFSET 0) AS moment
WHERE l.handler = ANY (%(handlers)s::text[]) AND (l.tenant = '*' OR l.tenant = ANY (%(tenants)s::text[]))
UNION ALL
SELECT p.handler, p.tenant, NULL, 0, NULL, p.paused_at
FROM handler_pauses AS p
WHERE p.handler = ANY (%(handlers)s::text[]) AND (p.tenant = '*' OR p.tenant = ANY (%(tenants)s::text[]));

-- name: take_tokens
UPDATE handler_limits AS l SET tokens = taken.left_over, counted_at = %(at)s
FROM unnest(%(handlers)s::text[], %(tenants)s::text[], %(tokens)s::float8[]) AS taken(handler, tenant, left_over)
WHERE l.handler = taken.handler AND l.tenant = taken.tenant;

-- name: limit_handler
INSERT INTO handler_limits AS l (handler, tenant, max_in_flight, rate)
VALUES (%(handler)s, %(tenant)s, %(max_in_flight)s, %(rate)s)
ON CONFLICT (handler, tenant) DO UPDATE SET max_in_flight = excluded.max_in_flight, rate = excluded.rate;

-- name: lift_handler_limit
DELETE FROM handler_limits WHERE handler = %(handler)s AND tenant = %(tenant)s;

-- name: list_limits
SELECT handler, tenant, max_in_flight, rate FROM handler_limits ORDER BY handler, tenant;
