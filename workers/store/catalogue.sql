-- What handlers have announced. Announcements exclude each other; a batch shares that lock while nothing was announced.

-- name: lock
SELECT pg_advisory_xact_lock(hashtext('pipeline catalogue'));

-- name: share_lock
SELECT pg_advisory_xact_lock_shared(hashtext('pipeline catalogue'));

-- name: version
SELECT version FROM handler_catalogue;

-- name: read
SELECT c.version, h.name, h.event, h.tenant, h.provider, h.max_attempts, h.timeout_seconds, h.schedule, h.serial_by
FROM handler_catalogue AS c LEFT JOIN registered_handlers AS h ON h.renamed_to IS NULL
ORDER BY h.name;

-- Mostly nothing is changed: ids and times rise.
-- name: note_unheard
UPDATE handler_catalogue
SET unheard_id = least(unheard_id, %(id)b::uuid), unheard_since = least(unheard_since, now())
WHERE unheard_id IS NULL OR unheard_id > %(id)b::uuid OR unheard_since > now();

-- name: list_registered
SELECT name, event, tenant, provider, max_attempts, timeout_seconds, schedule, serial_by, code_version, replaced,
       renamed_to, announced_at, last_seen_at, backfill_after IS NOT NULL AS backfills
FROM registered_handlers ORDER BY name;

-- name: register
INSERT INTO registered_handlers AS h (
    name, event, tenant, provider, max_attempts, timeout_seconds, schedule, serial_by, code_version, replaced,
    backfill_after
)
SELECT %(name)s, %(event)s, %(tenant)s, %(provider)s, %(max_attempts)s, %(timeout)s, %(schedule)s::float8[],
       %(serial_by)s, %(code_version)s, %(replaced)s::text[], CASE WHEN c.version = 0 THEN c.unheard_id END
FROM handler_catalogue AS c
ON CONFLICT (name) DO UPDATE SET
    event = excluded.event, tenant = excluded.tenant, provider = excluded.provider,
    max_attempts = excluded.max_attempts, timeout_seconds = excluded.timeout_seconds, schedule = excluded.schedule,
    serial_by = excluded.serial_by, code_version = excluded.code_version, replaced = excluded.replaced,
    announced_at = now(), last_seen_at = now();

-- name: raise_version
UPDATE handler_catalogue SET version = version + 1;

-- name: see
UPDATE registered_handlers SET code_version = %(code_version)s, last_seen_at = now()
WHERE name = ANY (%(names)s::text[]) AND (last_seen_at < now() - interval '1 minute' OR code_version <> %(code_version)s);

-- name: next_backfill
SELECT h.name, h.event, h.tenant, h.provider, h.backfill_after, h.announced_at + interval '1 hour' AS until,
       c.unheard_since
FROM registered_handlers AS h CROSS JOIN handler_catalogue AS c
WHERE h.backfill_after IS NOT NULL AND h.renamed_to IS NULL
ORDER BY h.name LIMIT 1 FOR UPDATE OF h SKIP LOCKED;

-- name: move_backfill
UPDATE registered_handlers SET backfill_after = %(after)s WHERE name = %(name)s;

-- By hand ------------------------------------------------------------------------------------------------------------

-- name: remove
WITH limits AS (
    DELETE FROM handler_limits WHERE handler = %(name)s
), pauses AS (
    DELETE FROM handler_pauses WHERE handler = %(name)s
), serial AS (
    DELETE FROM serial_handlers WHERE handler = %(name)s
)
DELETE FROM registered_handlers WHERE name = %(name)s OR renamed_to = %(name)s;

-- The new name keeps what it was announced with, if it was; all that is set for the old one is the new one's.
-- name: rename
WITH old AS MATERIALIZED (
    UPDATE registered_handlers SET renamed_to = %(new)s, backfill_after = NULL
    WHERE name = %(old)s RETURNING *
), earlier AS (
    UPDATE registered_handlers SET renamed_to = %(new)s WHERE renamed_to = %(old)s
), serial AS (
    INSERT INTO serial_handlers (handler) SELECT %(new)s FROM old WHERE serial_by IS NOT NULL ON CONFLICT DO NOTHING
), limits AS (
    DELETE FROM handler_limits WHERE handler = %(old)s RETURNING *
), kept AS (
    INSERT INTO handler_limits (handler, tenant, max_in_flight, rate, tokens, counted_at)
    SELECT %(new)s, tenant, max_in_flight, rate, tokens, counted_at FROM limits ON CONFLICT DO NOTHING
), pauses AS (
    DELETE FROM handler_pauses WHERE handler = %(old)s RETURNING *
), still_paused AS (
    INSERT INTO handler_pauses (handler, tenant, paused_at, paused_by, pause_reason, paused_until)
    SELECT %(new)s, tenant, paused_at, paused_by, pause_reason, paused_until FROM pauses ON CONFLICT DO NOTHING
)
INSERT INTO registered_handlers AS h (
    name, event, tenant, provider, max_attempts, timeout_seconds, schedule, serial_by, code_version, backfill_after
)
SELECT %(new)s, event, tenant, provider, max_attempts, timeout_seconds, schedule, serial_by, code_version, (
           SELECT r.backfill_after FROM registered_handlers AS r WHERE r.name = %(old)s
       )
FROM old
ON CONFLICT (name) DO UPDATE SET backfill_after = coalesce(h.backfill_after, excluded.backfill_after);

-- Made anew under the other name, with all that they have been through. What waited for another of its subject looks again.
-- An event that has a delivery under the new name, of the time in which both were announced, gets no second one.
-- name: rename_open
WITH chosen AS MATERIALIZED (
    SELECT event_id FROM deliveries
    WHERE event_id > %(after)s AND handler = %(old)s AND state <> 'running'
    ORDER BY event_id LIMIT %(most)s FOR UPDATE SKIP LOCKED
), taken AS (
    DELETE FROM deliveries AS d USING chosen AS c WHERE d.event_id = c.event_id AND d.handler = %(old)s
    RETURNING d.*
), judged AS MATERIALIZED (
    SELECT taken.*, (
        SELECT true FROM deliveries AS d WHERE d.event_id = taken.event_id AND d.handler = %(new)s
        UNION ALL
        SELECT true FROM deliveries_done AS d WHERE d.event_id = taken.event_id AND d.handler = %(new)s
        LIMIT 1
    ) AS doubled
    FROM taken
), moved AS (
    INSERT INTO deliveries (
        event_id, handler, tenant, ready, alone, attempt, fence, due_at, worker, last_error, created_at, serial
    )
    SELECT event_id, %(new)s, tenant, ready OR state = 'queued' OR due_at = parked(), alone, attempt, fence,
           CASE WHEN due_at = parked() THEN created_at ELSE due_at END, worker, last_error, created_at, serial
    FROM judged WHERE doubled IS NULL
), ended AS (
    INSERT INTO deliveries_done (event_id, handler, tenant, state, attempt, fence, worker, last_error, created_at)
    SELECT event_id, %(old)s, tenant, 'cancelled', attempt, fence, worker, 'renamed to ' || %(new)s, created_at
    FROM judged WHERE doubled
), tallied AS (
    INSERT INTO tallies_new (tenant, handler, outcome, seconds)
    SELECT tenant, %(old)s, 'cancelled', array_fill(NULL::real, ARRAY[count(*)::integer])
    FROM judged WHERE doubled GROUP BY tenant
), noted AS (
    INSERT INTO lane_marks (tenant, handler, low)
    SELECT DISTINCT tenant, %(old)s, '0'::xid8 FROM judged WHERE ready ORDER BY tenant ON CONFLICT DO NOTHING
)
SELECT event_id, doubled IS NULL AS moved FROM judged ORDER BY event_id;

-- name: count_open
SELECT count(*) AS count FROM deliveries WHERE handler = %(name)s;
