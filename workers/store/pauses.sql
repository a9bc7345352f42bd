-- Pauses of tenants and handlers. Admission reads them: see `list_candidates` and `list_allowances`.

-- No admission is under way while this is held, and the next one sees the pause.
-- name: lock_admission
SELECT FROM admission FOR UPDATE;

-- name: pause_tenant
UPDATE tenants
SET paused_at = coalesce(paused_at, now()), paused_until = %(until)s,
    paused_by = coalesce(nullif(current_setting('pipeline.who', true), ''), session_user),
    pause_reason = nullif(current_setting('pipeline.why', true), '')
WHERE name = %(tenant)s;

-- name: pause_handler
INSERT INTO handler_pauses AS p (handler, tenant, paused_by, pause_reason, paused_until)
VALUES (
    %(handler)s, %(tenant)s, coalesce(nullif(current_setting('pipeline.who', true), ''), session_user),
    nullif(current_setting('pipeline.why', true), ''), %(until)s
)
ON CONFLICT (handler, tenant) DO UPDATE
SET paused_by = excluded.paused_by, pause_reason = excluded.pause_reason, paused_until = excluded.paused_until;

-- What was sent and has not begun. What is locked begins at this moment, or has ended.
-- name: unqueue
UPDATE deliveries SET state = 'pending', ready = true, lease_until = NULL
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM deliveries
    WHERE state = 'queued' AND (%(tenant)s = '*' OR tenant = %(tenant)s) AND (%(handler)s = '*' OR handler = %(handler)s)
    ORDER BY event_id, handler FOR UPDATE SKIP LOCKED
));

-- name: resume_tenant
UPDATE tenants SET paused_at = NULL, paused_by = NULL, pause_reason = NULL, paused_until = NULL
WHERE name = %(tenant)s AND paused_at IS NOT NULL;

-- name: resume_handler
DELETE FROM handler_pauses WHERE handler = %(handler)s AND tenant = %(tenant)s;

-- name: list_pauses
SELECT tenant, handler, paused_at, paused_by, pause_reason, paused_until FROM pauses
WHERE (%(tenant)s = '*' OR tenant IN (%(tenant)s, '*')) AND (%(handler)s = '*' OR handler IN (%(handler)s, '*'))
ORDER BY paused_at, tenant, handler LIMIT %(most)s;

-- name: count_pauses
SELECT count(*) FILTER (WHERE handler = '*') AS tenants, count(*) FILTER (WHERE tenant = '*') AS handlers,
       count(*) FILTER (WHERE tenant <> '*' AND handler <> '*') AS lanes,
       extract(epoch FROM now() - min(paused_at))::float8 AS oldest_seconds
FROM pauses;

-- name: are_over
SELECT EXISTS (SELECT FROM pauses WHERE paused_until <= now()) AS some;

-- name: say_why
SELECT set_config('pipeline.why', 'its time was over', true);

-- name: end_tenant_pauses
UPDATE tenants SET paused_at = NULL, paused_by = NULL, pause_reason = NULL, paused_until = NULL
WHERE paused_at IS NOT NULL AND paused_until <= now();

-- name: end_handler_pauses
DELETE FROM handler_pauses WHERE paused_until <= now();
