-- What was done, by minute and hour. Each point is probed by its key: nothing reads a whole table.

-- name: overall
SELECT p.at, coalesce(sum(a.count) FILTER (WHERE a.handler = '' AND a.outcome IN ('stored', 'rejected')), 0)::bigint AS received,
       coalesce(sum(a.count) FILTER (WHERE a.handler = '' AND a.outcome = 'rejected'), 0)::bigint AS rejected,
       coalesce(sum(a.count) FILTER (WHERE a.outcome = 'succeeded'), 0)::bigint AS handled,
       coalesce(sum(a.count) FILTER (WHERE a.outcome IN ('retried', 'dead')), 0)::bigint AS failed
FROM generate_series(
    date_trunc(%(span)s, now()) - (%(most)s - 1) * ('1 ' || %(span)s)::interval, date_trunc(%(span)s, now()), ('1 ' || %(span)s)::interval
) AS p(at)
LEFT JOIN LATERAL (
    SELECT handler, outcome, count FROM activity AS a
    WHERE a.span = %(span)s AND a.at = p.at AND (%(handler)s::text IS NULL OR a.handler = %(handler)s) OFFSET 0
) AS a ON true
GROUP BY p.at ORDER BY p.at;

-- name: minutes_of_tenant
SELECT p.at, coalesce(sum(t.count) FILTER (WHERE t.handler = '' AND t.outcome IN ('stored', 'rejected')), 0)::bigint AS received,
       coalesce(sum(t.count) FILTER (WHERE t.handler = '' AND t.outcome = 'rejected'), 0)::bigint AS rejected,
       coalesce(sum(t.count) FILTER (WHERE t.outcome = 'succeeded'), 0)::bigint AS handled,
       coalesce(sum(t.count) FILTER (WHERE t.outcome IN ('retried', 'dead')), 0)::bigint AS failed
FROM generate_series(
    date_trunc('minute', now()) - (%(most)s - 1) * interval '1 minute', date_trunc('minute', now()), interval '1 minute'
) AS p(at)
LEFT JOIN LATERAL (
    SELECT handler, outcome, count FROM tallies AS t WHERE t.minute = p.at AND t.tenant = %(tenant)s OFFSET 0
) AS t ON true
GROUP BY p.at ORDER BY p.at;

-- The latest hours are still kept by the minute.
-- name: hours_of_tenant
SELECT p.at, coalesce(sum(t.count) FILTER (WHERE t.handler = '' AND t.outcome IN ('stored', 'rejected')), 0)::bigint AS received,
       coalesce(sum(t.count) FILTER (WHERE t.handler = '' AND t.outcome = 'rejected'), 0)::bigint AS rejected,
       coalesce(sum(t.count) FILTER (WHERE t.outcome = 'succeeded'), 0)::bigint AS handled,
       coalesce(sum(t.count) FILTER (WHERE t.outcome IN ('retried', 'dead')), 0)::bigint AS failed
FROM generate_series(
    date_trunc('hour', now()) - (%(most)s - 1) * interval '1 hour', date_trunc('hour', now()), interval '1 hour'
) AS p(at)
LEFT JOIN LATERAL (
    SELECT handler, outcome, count FROM tallies_hourly AS t WHERE t.hour = p.at AND t.tenant = %(tenant)s
    UNION ALL
    SELECT of_minute.handler, of_minute.outcome, of_minute.count
    FROM generate_series(0, 59) AS number CROSS JOIN LATERAL (
        SELECT handler, outcome, count FROM tallies AS t
        WHERE t.minute = p.at + number * interval '1 minute' AND t.tenant = %(tenant)s OFFSET 0
    ) AS of_minute
) AS t ON true
GROUP BY p.at ORDER BY p.at;

-- name: handlers
SELECT handler, outcome, bucket, sum(count)::bigint AS count FROM activity
WHERE span = 'minute' AND at >= date_trunc('minute', now()) - %(minutes)s * interval '1 minute' AND handler <> ''
GROUP BY handler, outcome, bucket ORDER BY handler;

-- Of the newest events, whose id has the time of their receipt.
-- name: latest
SELECT event_id, extract(epoch FROM finished_at)::float8 AS finished_at
FROM deliveries_done WHERE state = 'succeeded' ORDER BY event_id DESC LIMIT %(most)s;

-- Dead deliveries of incidents by the hour in which their events were received: the newest of each, as far as the bound.
-- name: incident_hours
SELECT it.incident, date_trunc('hour', uuid_time(d.event_id)) AS at, count(*) AS count
FROM unnest(%(incidents)b::bigint[]) AS it(incident) CROSS JOIN LATERAL (
    SELECT event_id FROM deliveries_done
    WHERE state = 'dead' AND incident = it.incident
      AND event_id >= uuid_at(date_trunc('hour', now()) - (%(hours)s - 1) * interval '1 hour')
    ORDER BY event_id DESC LIMIT %(bound)s
) AS d
GROUP BY 1, 2;

-- name: list_hours
SELECT date_trunc('hour', now()) - number * interval '1 hour' AS at FROM generate_series(0, %(hours)s - 1) AS number
ORDER BY at;
