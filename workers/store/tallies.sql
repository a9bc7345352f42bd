-- Rolling up what was counted. One at a time; whoever comes meanwhile leaves it to the other.

-- name: lock
SELECT pg_try_advisory_xact_lock(hashtext('pipeline tallies')) AS locked;

-- By place in the table: it has no index, and holds what has come in since the last time.
-- name: roll_up
WITH taken AS MATERIALIZED (
    DELETE FROM tallies_new WHERE ctid = ANY (ARRAY(SELECT ctid FROM tallies_new LIMIT %(most)s))
    RETURNING at, date_trunc('minute', at) AS minute, tenant, provider, handler, outcome, seconds, waits
), counted AS MATERIALIZED (
    SELECT minute, tenant, provider, handler, outcome, coalesce(width_bucket(each, %(bounds)s::real[]), -1) AS bucket,
           count(*) AS count, coalesce(sum(each::float8), 0) AS seconds
    FROM taken CROSS JOIN LATERAL unnest(seconds) AS each
    GROUP BY minute, tenant, provider, handler, outcome, bucket
), waited AS (
    SELECT handler, outcome, width_bucket(each, %(bounds)s::real[]) AS bucket, count(*) AS count,
           sum(each::float8) AS seconds
    FROM taken CROSS JOIN LATERAL unnest(waits) AS each
    GROUP BY handler, outcome, bucket
), kept AS (
    INSERT INTO tallies AS t (minute, tenant, provider, handler, outcome, bucket, count, seconds)
    SELECT * FROM counted ORDER BY minute, tenant, provider, handler, outcome, bucket
    ON CONFLICT (minute, tenant, provider, handler, outcome, bucket)
    DO UPDATE SET count = t.count + excluded.count, seconds = t.seconds + excluded.seconds
), shown AS (
    INSERT INTO activity AS t (span, at, handler, outcome, bucket, count)
    SELECT span, date_trunc(span, minute), handler, outcome, bucket, sum(count)
    FROM counted CROSS JOIN (VALUES ('hour'), ('minute')) AS each(span)
    GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (span, at, handler, outcome, bucket) DO UPDATE SET count = t.count + excluded.count
), seen AS (
    INSERT INTO endpoint_activity AS a (tenant, provider, first_at, last_at)
    SELECT tenant, provider, min(at), max(at) FROM taken WHERE provider <> '' GROUP BY tenant, provider
    ON CONFLICT (tenant, provider) DO UPDATE SET last_at = greatest(a.last_at, excluded.last_at)
), added AS (
    INSERT INTO totals AS t (figure, handler, outcome, bucket, count, seconds)
    SELECT CASE handler WHEN '' THEN 'events' ELSE 'attempts' END, handler, outcome, bucket, sum(count), sum(seconds)
    FROM counted GROUP BY handler, outcome, bucket
    UNION ALL
    SELECT 'waits', handler, outcome, bucket, count, seconds FROM waited
    ON CONFLICT (figure, handler, outcome, bucket)
    DO UPDATE SET count = t.count + excluded.count, seconds = t.seconds + excluded.seconds
)
SELECT count(*) AS taken FROM taken;

-- name: roll_hours
WITH taken AS (
    DELETE FROM tallies WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM tallies WHERE minute < date_trunc('hour', now()) - %(keep)s::interval
        ORDER BY minute LIMIT %(most)s
    ))
    RETURNING date_trunc('hour', minute) AS hour, tenant, provider, handler, outcome, bucket, count, seconds
), kept AS (
    INSERT INTO tallies_hourly AS t (hour, tenant, provider, handler, outcome, bucket, count, seconds)
    SELECT hour, tenant, provider, handler, outcome, bucket, sum(count), sum(seconds)
    FROM taken GROUP BY hour, tenant, provider, handler, outcome, bucket
    ON CONFLICT (hour, tenant, provider, handler, outcome, bucket)
    DO UPDATE SET count = t.count + excluded.count, seconds = t.seconds + excluded.seconds
)
SELECT count(*) AS taken FROM taken;

-- name: drop_hours
DELETE FROM tallies_hourly WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM tallies_hourly WHERE hour < now() - %(keep)s::interval ORDER BY hour LIMIT %(most)s
));

-- name: drop_activity
DELETE FROM activity WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM activity
    WHERE (span = 'minute' AND at < now() - %(minutes)s::interval) OR (span = 'hour' AND at < now() - %(hours)s::interval)
    LIMIT %(most)s
));

-- name: note_usual
UPDATE endpoint_activity AS a SET usual_per_hour = usual.count
FROM (
    SELECT e.tenant, e.provider,
           CASE WHEN e.first_at < now() - interval '8 days'
                THEN least(coalesce(sum(t.count) FILTER (WHERE t.hour > now() - interval '2 days'), 0),
                           coalesce(sum(t.count) FILTER (WHERE t.hour < now() - interval '2 days'), 0))
                ELSE coalesce(sum(t.count) FILTER (WHERE t.hour > now() - interval '2 days'), 0) END AS count
    FROM endpoint_activity AS e LEFT JOIN tallies_hourly AS t
      ON t.tenant = e.tenant AND t.provider = e.provider
     AND t.hour IN (date_trunc('hour', now()) - interval '1 day', date_trunc('hour', now()) - interval '7 days')
    GROUP BY e.tenant, e.provider, e.first_at
) AS usual
WHERE a.tenant = usual.tenant AND a.provider = usual.provider AND a.usual_per_hour <> usual.count;

-- The handlers that were counted first have totals of their own, for good; all others share one.
-- name: read_totals
WITH named AS (
    SELECT handler FROM totals WHERE handler <> '' GROUP BY handler ORDER BY min(since), handler LIMIT %(handlers)s
)
SELECT t.figure, CASE WHEN t.handler = '' OR named.handler IS NOT NULL THEN t.handler ELSE %(others)s END AS handler,
       t.outcome, t.bucket, sum(t.count)::bigint AS count, sum(t.seconds)::float8 AS seconds
FROM totals AS t LEFT JOIN named USING (handler)
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4;

-- name: list_uncounted
SELECT h.name FROM registered_handlers AS h
WHERE h.renamed_to IS NULL AND NOT EXISTS (SELECT FROM totals AS t WHERE t.figure = 'attempts' AND t.handler = h.name)
ORDER BY h.announced_at, h.name LIMIT %(most)s;
