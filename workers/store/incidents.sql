-- Incidents: what is to be grouped, what it is grouped into, and what becomes of it. Whoever writes holds the lock.

-- In their transaction what has an index in the order that is asked for is read by it, whatever Postgres knows: the planner
-- takes dead deliveries without an incident for many, since most deliveries have none.
-- name: lock
SELECT pg_advisory_xact_lock(hashtext('pipeline incidents')),
       set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true);

-- name: lock_if_free
SELECT pg_try_advisory_xact_lock(hashtext('pipeline incidents')) AS locked,
       set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true);

-- Dead deliveries that belong to no incident yet, the latest first. What somebody retries this moment is left out.
-- name: list_ungrouped
SELECT event_id, handler, tenant, last_error AS error, finished_at AS at FROM deliveries_done
WHERE state = 'dead' AND incident IS NULL
ORDER BY incident DESC NULLS FIRST, event_id DESC LIMIT %(most)s FOR UPDATE SKIP LOCKED;

-- name: mark_grouped
UPDATE deliveries_done AS d SET incident = it.incident
FROM unnest(%(event_ids)b::uuid[], %(handlers)s::text[], %(incidents)b::bigint[]) AS it(event_id, handler, incident)
WHERE d.event_id = it.event_id AND d.handler = it.handler AND d.event_id BETWEEN %(first)s AND %(last)s;

-- A bounded sample of what waits for another attempt, those that have failed so often already, with the latest failure. The
-- bound is a constant, so that the planner knows that sorting all that waits is no use.
-- name: list_waiting
SELECT d.event_id, d.handler, d.tenant, a.error, a.failed_at AS at
FROM (
    SELECT event_id, handler, tenant, fence, attempt FROM deliveries
    WHERE state = 'pending' AND NOT ready ORDER BY due_at LIMIT 2000
) AS d CROSS JOIN LATERAL (
    SELECT error, failed_at FROM attempts AS a
    WHERE a.event_id = d.event_id AND a.handler = d.handler AND a.fence = d.fence
) AS a
WHERE d.attempt >= %(attempts)s;

-- From reason to reason; of each, what was stored since the last look among what was received in the last hour.
-- name: list_rejected
WITH RECURSIVE reason AS (
    (SELECT reject_reason AS name, 1 AS number FROM events WHERE state = 'rejected' ORDER BY reject_reason LIMIT 1)
    UNION ALL
    SELECT (SELECT e.reject_reason FROM events AS e WHERE e.state = 'rejected' AND e.reject_reason > r.name
            ORDER BY e.reject_reason LIMIT 1), r.number + 1
    FROM reason AS r WHERE r.name IS NOT NULL AND r.number < 100
)
SELECT e.id AS event_id, e.provider, e.tenant, r.name AS reason, e.stored_at AS at
FROM reason AS r CROSS JOIN LATERAL (
    SELECT id, provider, tenant, stored_at FROM events
    WHERE state = 'rejected' AND reject_reason = r.name AND id >= uuid_at(now() - interval '1 hour')
    ORDER BY id DESC LIMIT 10000
) AS e
WHERE r.name IS NOT NULL AND e.stored_at > %(since)s AND e.stored_at <= %(until)s;

-- Somewhat behind the clock: what was stored before that has been committed.
-- name: read_progress
SELECT stored_at AS since, clock_timestamp() - interval '3 seconds' AS until FROM incident_progress FOR UPDATE;

-- name: move_progress
UPDATE incident_progress SET stored_at = %(until)s WHERE stored_at < %(until)s;

-- Endpoints that got a valid event after this time; a refusal beside those is a stranger's.
-- name: list_active
SELECT a.tenant, a.provider
FROM unnest(%(tenants)s::text[], %(providers)s::text[], %(since)b::timestamptz[]) AS it(tenant, provider, since)
JOIN endpoint_activity AS a ON a.tenant = it.tenant AND a.provider = it.provider AND a.last_at >= it.since;

-- name: find
SELECT i.id, i.kind, i.subject, i.cause
FROM unnest(%(kinds)s::text[], %(subjects)s::text[], %(causes)s::text[]) AS it(kind, subject, cause)
JOIN incidents AS i ON i.kind = it.kind AND i.subject = it.subject AND i.cause = it.cause;

-- name: count_causes
SELECT kind, subject, count(*) AS count FROM incidents
WHERE kind = ANY (%(kinds)s::text[]) AND subject = ANY (%(subjects)s::text[]) AND last_seen > now() - interval '1 day'
GROUP BY kind, subject;

-- Seen after it was resolved: open again. What comes back within a day has been quiet for too short a time.
-- name: record
WITH old AS MATERIALIZED (
    SELECT id, state, CASE WHEN %(last_seen)s > resolved_at THEN resolved_at END AS back_after
    FROM incidents WHERE kind = %(kind)s AND subject = %(subject)s AND cause = %(cause)s
)
INSERT INTO incidents AS i (
    kind, subject, cause, example, first_seen, last_seen, opened_at, count, waiting, samples, successes
)
VALUES (
    %(kind)s, %(subject)s, %(cause)s, %(example)s, %(first_seen)s, %(last_seen)s, %(first_seen)s, %(count)s, %(waiting)s,
    %(samples)s,
    (SELECT coalesce(sum(t.count), 0) FROM totals AS t
     WHERE t.figure = 'attempts' AND t.handler = %(subject)s AND t.outcome = 'succeeded')
)
ON CONFLICT (kind, subject, cause) DO UPDATE SET
    first_seen = least(i.first_seen, excluded.first_seen),
    last_seen = greatest(i.last_seen, excluded.last_seen),
    count = CASE WHEN %(sets_count)s THEN excluded.count ELSE i.count + excluded.count END,
    waiting = CASE WHEN %(sets_waiting)s THEN excluded.waiting ELSE i.waiting END,
    samples = CASE WHEN excluded.last_seen >= i.last_seen THEN (excluded.samples || i.samples)[1:5] ELSE i.samples END,
    successes = CASE WHEN excluded.last_seen > i.last_seen THEN excluded.successes ELSE i.successes END,
    state = CASE WHEN excluded.last_seen > i.resolved_at THEN 'open' ELSE i.state END,
    opened_at = CASE WHEN excluded.last_seen > i.resolved_at THEN greatest(excluded.first_seen, i.resolved_at)
                     ELSE i.opened_at END,
    reopened = CASE WHEN excluded.last_seen > i.resolved_at + interval '1 day' THEN 0
                    WHEN excluded.last_seen > i.resolved_at THEN i.reopened + 1 ELSE i.reopened END,
    resolved_by = CASE WHEN excluded.last_seen > i.resolved_at THEN NULL ELSE i.resolved_by END,
    resolved_at = CASE WHEN excluded.last_seen > i.resolved_at THEN NULL ELSE i.resolved_at END
RETURNING i.id, i.state = 'open' AND ((SELECT id FROM old) IS NULL OR (SELECT back_after FROM old) IS NOT NULL) AS opened,
          i.state = 'open' AS is_open, i.opened_at, coalesce(i.told_at >= i.opened_at, false) AS told,
          coalesce(i.muted_until > now(), false) AS muted, i.last_seen < now() - interval '1 day' AS is_old;

-- Returns the tenants that were not affected since the incident was opened.
-- name: record_tenants
WITH given AS (
    SELECT tenant, count, greatest(last_seen, %(since)s) AS last_seen
    FROM unnest(%(tenants)s::text[], %(counts)b::bigint[], %(last)b::timestamptz[]) AS it(tenant, count, last_seen)
), known AS MATERIALIZED (
    SELECT tenant FROM incident_tenants WHERE incident = %(incident)s AND last_seen >= %(since)s
), stored AS (
    INSERT INTO incident_tenants AS t (incident, tenant, count, last_seen)
    SELECT %(incident)s, tenant, count, last_seen FROM given ORDER BY tenant
    ON CONFLICT (incident, tenant) DO UPDATE SET
        count = CASE WHEN %(sets_count)s THEN excluded.count ELSE t.count + excluded.count END,
        last_seen = greatest(t.last_seen, excluded.last_seen)
)
SELECT tenant FROM given EXCEPT SELECT tenant FROM known ORDER BY tenant;

-- Nothing waits for another attempt any more but what was found now.
-- name: clear_waiting
UPDATE incidents SET waiting = 0 WHERE waiting > 0 AND kind = 'failure' AND id <> ALL (%(ids)b::bigint[]);

-- name: notify
INSERT INTO incident_notices (incident, kind, tenants) VALUES (%(incident)s, %(kind)s, %(tenants)s);

-- name: mark_told
UPDATE incidents SET told_at = clock_timestamp() WHERE id = %(incident)s;

-- Quiet for long enough, twice as long after each time that it came back; a handler must have succeeded since, unless
-- it was quiet for a week: perhaps nobody runs it any more.
-- name: list_quiet
SELECT id FROM incidents AS i
WHERE state = 'open' AND last_seen < now() - %(quiet)s::interval
  AND last_seen < now() - %(quiet)s::interval * power(2, least(reopened, 5))
  AND (kind <> 'failure' OR last_seen < now() - interval '7 days' OR successes < (
      SELECT coalesce(sum(t.count), 0) FROM totals AS t
      WHERE t.figure = 'attempts' AND t.handler = i.subject AND t.outcome = 'succeeded'
  ))
ORDER BY last_seen LIMIT %(most)s;

-- Returns whom a notice is about, unless nobody was told that it is open.
-- name: resolve
UPDATE incidents AS i SET state = 'resolved', resolved_at = clock_timestamp(), resolved_by = %(who)s, waiting = 0
WHERE id = %(incident)s AND state = 'open'
RETURNING told_at >= opened_at AND coalesce(muted_until <= now(), true) AS told,
          array(SELECT t.tenant FROM incident_tenants AS t
                WHERE t.incident = i.id AND t.last_seen >= i.opened_at ORDER BY t.count DESC LIMIT 1000) AS tenants;

-- name: list_to_remind
SELECT id, array(
    SELECT t.tenant FROM incident_tenants AS t
    WHERE t.incident = i.id AND t.last_seen >= i.opened_at ORDER BY t.count DESC LIMIT 1000
) AS tenants
FROM incidents AS i
WHERE state = 'open' AND told_at < now() - interval '1 day' AND coalesce(muted_until <= now(), true)
ORDER BY id LIMIT %(most)s;

-- name: mute
UPDATE incidents SET muted_until = %(until)s::timestamptz WHERE id = %(incident)s RETURNING id;

-- By people -------------------------------------------------------------------------------------------------------------

-- name: list_incidents
SELECT i.id, i.kind, i.subject, i.cause, i.state, i.first_seen, i.last_seen, i.count, i.waiting, i.reopened, i.muted_until,
       i.resolved_at, i.resolved_by,
       (SELECT count(*) FROM incident_tenants AS t WHERE t.incident = i.id) AS tenants
FROM incidents AS i
WHERE (%(state)s::text IS NULL OR i.state = %(state)s)
  AND (%(subject)s::text IS NULL OR i.subject = %(subject)s)
  AND (%(tenant)s::text IS NULL OR EXISTS (
      SELECT FROM incident_tenants AS t WHERE t.incident = i.id AND t.tenant = %(tenant)s))
ORDER BY i.state, i.last_seen DESC, i.id LIMIT %(limit)s;

-- name: read_incident
SELECT i.*, array(
    SELECT t.tenant FROM incident_tenants AS t WHERE t.incident = i.id ORDER BY t.count DESC, t.tenant LIMIT 1000
) AS tenants,
(SELECT count(*) FROM incident_tenants AS t WHERE t.incident = i.id) AS tenant_count
FROM incidents AS i WHERE id = %(incident)s;

-- name: list_tenants
SELECT tenant, count, last_seen FROM incident_tenants WHERE incident = %(incident)s ORDER BY count DESC, tenant LIMIT %(limit)s;

-- The latest failure of each sample, with its traceback.
-- name: list_samples
SELECT s.event_id, e.tenant, e.type, e.received_at, a.error, a.traceback, a.failed_at
FROM unnest(%(samples)b::uuid[]) WITH ORDINALITY AS s(event_id, place)
LEFT JOIN events AS e ON e.id = s.event_id
LEFT JOIN LATERAL (
    SELECT error, traceback, failed_at FROM attempts AS a
    WHERE a.event_id = s.event_id AND a.handler = %(handler)s ORDER BY a.fence DESC LIMIT 1
) AS a ON true
ORDER BY s.place;

-- name: count_dead
SELECT count(*) AS count FROM (
    SELECT FROM deliveries_done WHERE state = 'dead' AND incident = %(incident)s LIMIT %(bound)s
) AS bounded;

-- name: count_open
SELECT count(*) AS count FROM incidents WHERE state = 'open' AND coalesce(muted_until <= now(), true);

-- By retention ----------------------------------------------------------------------------------------------------------

-- name: drop_old
DELETE FROM incidents WHERE id IN (
    SELECT id FROM incidents WHERE state = 'resolved' AND last_seen < now() - %(keep)s::interval LIMIT %(most)s
);

-- name: drop_old_notices
DELETE FROM incident_notices WHERE at < now() - interval '7 days';
