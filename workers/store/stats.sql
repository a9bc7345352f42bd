-- Figures of the moment: probes by key, ranges of ids, and bounds; nothing scans history.

-- name: read_fates
-- Scalar subplans: a probe by key per id, whatever the planner thinks of tables that have just begun to fill.
WITH asked AS MATERIALIZED (
    SELECT id, (SELECT a.first_id FROM arrivals AS a WHERE a.id = asked.id) AS first_id
    FROM unnest(%(ids)b::uuid[]) AS asked(id)
), followed AS MATERIALIZED (
    SELECT id, coalesce(first_id, id) AS event_id, first_id IS NOT NULL AS duplicate FROM asked
)
SELECT id, duplicate,
       (SELECT e.state FROM events AS e WHERE e.id = event_id) AS state,
       EXISTS (SELECT FROM deliveries AS d WHERE d.event_id = f.event_id OFFSET 0) AS open,
       (SELECT array_agg(DISTINCT d.state) FROM deliveries_done AS d WHERE d.event_id = f.event_id) AS done
FROM followed AS f;

-- From one tenant to the next by index probes, in each of the four places where work can be; counts are bounded. If one is
-- asked for, only that one.
-- name: tenants_with_work
WITH RECURSIVE ready AS (
    (SELECT tenant FROM deliveries WHERE ready AND %(tenant)s::text IS NULL ORDER BY tenant LIMIT 1)
    UNION ALL
    SELECT (SELECT d.tenant FROM deliveries AS d WHERE d.ready AND d.tenant > r.tenant ORDER BY d.tenant LIMIT 1)
    FROM ready AS r WHERE r.tenant IS NOT NULL
), waiting AS (
    (SELECT tenant FROM deliveries WHERE state = 'pending' AND NOT ready AND %(tenant)s::text IS NULL
     ORDER BY tenant LIMIT 1)
    UNION ALL
    SELECT (SELECT d.tenant FROM deliveries AS d WHERE d.state = 'pending' AND NOT d.ready AND d.tenant > r.tenant
            ORDER BY d.tenant LIMIT 1)
    FROM waiting AS r WHERE r.tenant IS NOT NULL
), in_flight AS (
    (SELECT tenant FROM deliveries WHERE state <> 'pending' AND %(tenant)s::text IS NULL ORDER BY tenant LIMIT 1)
    UNION ALL
    SELECT (SELECT d.tenant FROM deliveries AS d WHERE d.state <> 'pending' AND d.tenant > r.tenant
            ORDER BY d.tenant LIMIT 1)
    FROM in_flight AS r WHERE r.tenant IS NOT NULL
), dead AS (
    (SELECT tenant FROM deliveries_done WHERE state = 'dead' AND %(tenant)s::text IS NULL ORDER BY tenant LIMIT 1)
    UNION ALL
    SELECT (SELECT d.tenant FROM deliveries_done AS d WHERE d.state = 'dead' AND d.tenant > r.tenant
            ORDER BY d.tenant LIMIT 1)
    FROM dead AS r WHERE r.tenant IS NOT NULL
), names AS MATERIALIZED (
    SELECT tenant FROM (
        (SELECT tenant FROM ready LIMIT %(tenants)s)
        UNION (SELECT tenant FROM waiting LIMIT %(tenants)s)
        UNION (SELECT tenant FROM in_flight LIMIT %(tenants)s)
        UNION (SELECT tenant FROM dead LIMIT %(tenants)s)
        UNION SELECT %(tenant)s::text COLLATE "C"
    ) AS found
    WHERE tenant IS NOT NULL ORDER BY tenant LIMIT %(tenants)s
)
SELECT n.tenant,
       (SELECT count(*) FROM (SELECT FROM deliveries AS d WHERE d.ready AND d.tenant = n.tenant LIMIT %(bound)s) AS bounded)
           AS pending,
       (SELECT count(*) FROM (SELECT FROM deliveries AS d WHERE d.state = 'pending' AND NOT d.ready AND d.tenant = n.tenant
                              LIMIT %(bound)s) AS bounded) AS retrying,
       sent.queued, sent.running,
       (SELECT count(*) FROM (SELECT FROM deliveries_done AS d WHERE d.state = 'dead' AND d.tenant = n.tenant
                              LIMIT %(bound)s) AS bounded) AS dead,
       t.paused_at, t.paused_by, t.pause_reason, t.paused_until, t.max_in_flight, coalesce(t.weight, 1) AS weight,
       lanes.oldest_seconds, lanes.handlers,
       array(
           SELECT l.handler FROM handler_limits AS l
           WHERE l.tenant IN ('*', n.tenant) AND (
               SELECT true FROM deliveries AS d WHERE d.ready AND d.tenant = n.tenant AND d.handler = l.handler LIMIT 1
           )
           ORDER BY l.handler LIMIT 20
       ) AS limited_handlers,
       array(
           SELECT p.handler FROM handler_pauses AS p
           WHERE p.tenant IN ('*', n.tenant) AND (
               SELECT true FROM deliveries AS d WHERE d.ready AND d.tenant = n.tenant AND d.handler = p.handler LIMIT 1
           )
           ORDER BY p.handler LIMIT 100
       ) AS paused_handlers
FROM names AS n
LEFT JOIN tenants AS t ON t.name = n.tenant
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE state = 'queued') AS queued, count(*) FILTER (WHERE state = 'running') AS running
    FROM (SELECT state FROM deliveries AS d WHERE d.state <> 'pending' AND d.tenant = n.tenant LIMIT %(bound)s) AS bounded
) AS sent
CROSS JOIN LATERAL (
    -- the oldest of each handler's, of the first hundred handlers
    WITH RECURSIVE lane AS (
        (SELECT d.handler, d.due_at, 1 AS number FROM deliveries AS d WHERE d.ready AND d.tenant = n.tenant
         ORDER BY d.tenant, d.handler, d.position, d.event_id LIMIT 1)
        UNION ALL
        SELECT following.handler, following.due_at, lane.number + 1
        FROM lane CROSS JOIN LATERAL (
            SELECT d.handler, d.due_at FROM deliveries AS d
            WHERE d.ready AND d.tenant = n.tenant AND d.handler > lane.handler
            ORDER BY d.tenant, d.handler, d.position, d.event_id LIMIT 1
        ) AS following
        WHERE lane.number < 100
    )
    SELECT round(extract(epoch FROM now() - min(due_at)), 1)::float8 AS oldest_seconds,
           array(SELECT handler FROM lane ORDER BY number) AS handlers
    FROM lane
) AS lanes
ORDER BY n.tenant;

-- name: handlers_with_work
-- Of bounded samples. Errors are of one kind if they agree up to the first colon, such as in their exception's class.
WITH work AS (
    (SELECT handler, state, NULL AS error FROM deliveries WHERE state <> 'pending' LIMIT %(bound)s)
    UNION ALL
    (SELECT handler, 'retrying', last_error FROM deliveries WHERE state = 'pending' AND NOT ready LIMIT %(bound)s)
    UNION ALL
    (SELECT handler, state, last_error FROM deliveries_done WHERE state = 'dead' LIMIT %(bound)s)
), kinds AS (
    SELECT handler, count(*) AS count, mode() WITHIN GROUP (ORDER BY left(split_part(error, E'\n', 1), 200) COLLATE "C") AS text
    FROM work WHERE error IS NOT NULL GROUP BY handler, split_part(error, ':', 1)
), top AS (
    SELECT DISTINCT ON (handler) handler, count, text FROM kinds ORDER BY handler, count DESC, text
)
SELECT handler,
       count(*) FILTER (WHERE state = 'retrying') AS retrying,
       count(*) FILTER (WHERE state = 'queued') AS queued,
       count(*) FILTER (WHERE state = 'running') AS running,
       count(*) FILTER (WHERE state = 'dead') AS dead,
       t.text AS top_error,
       coalesce(t.count, 0) AS top_error_count
FROM work LEFT JOIN top AS t USING (handler)
GROUP BY handler, t.text, t.count
ORDER BY handler LIMIT %(handlers)s;

-- What drains have counted since the beginning of a minute: by minutes, and what has not been added to its minute yet.
-- Whatever is stored, that is a row for each minute, tenant and outcome, and a row a batch for the last seconds.
-- name: count_received
SELECT coalesce(sum(count) FILTER (WHERE outcome IN ('stored', 'rejected')), 0)::bigint AS stored,
       coalesce(sum(count) FILTER (WHERE outcome = 'rejected'), 0)::bigint AS rejected, count(*) >= %(bound)s AS is_bounded
FROM (
    (SELECT handler, outcome, count FROM tallies WHERE minute >= %(since)s ORDER BY minute DESC LIMIT %(bound)s)
    UNION ALL
    (SELECT handler, outcome, cardinality(seconds) FROM tallies_new WHERE at >= %(since)s LIMIT %(bound)s)
) AS counted
WHERE handler = '';

-- name: read_days
-- Of the partitioned tables: the oldest day, the newest day that all of them have, and the day that it is.
SELECT min(oldest) AS oldest, CASE WHEN bool_and(newest IS NOT NULL) THEN min(newest) END AS newest,
       (now() AT TIME ZONE 'UTC')::date AS today
FROM (
    SELECT min(to_date(right(c.relname, 8), 'YYYYMMDD')) AS oldest, max(to_date(right(c.relname, 8), 'YYYYMMDD')) AS newest
    FROM unnest(%(tables)s::text[]) AS t(name)
    LEFT JOIN pg_inherits AS i ON i.inhparent = t.name::regclass
    LEFT JOIN pg_class AS c ON c.oid = i.inhrelid AND c.relname ~ '_[0-9]{8}$'
    GROUP BY t.name
) AS days;

-- Sessions and prepared transactions that keep what has been finished since from being cleaned away. Other roles' sessions
-- are shown to a member of pg_read_all_stats only.
-- name: old_snapshots
SELECT pid, usename::text AS role, application_name AS application, extract(epoch FROM now() - xact_start)::float8 AS seconds
FROM pg_stat_activity
WHERE datname = current_database() AND backend_xmin IS NOT NULL AND xact_start < now() - %(older_than)s::interval
UNION ALL
SELECT NULL, owner::text, 'prepared transaction ' || gid, extract(epoch FROM now() - prepared)::float8
FROM pg_prepared_xacts WHERE database = current_database() AND prepared < now() - %(older_than)s::interval
ORDER BY seconds DESC LIMIT 5;
