-- Jobs: a step locks its job, so that no two do the same one at a time, and what it did commits with where it stopped.

-- name: submit
INSERT INTO jobs (kind, filter, who, why, rate, expected, is_counted, begins_at)
VALUES (%(kind)s, %(filter)s, %(who)s, %(why)s, %(rate)s, %(expected)s, %(expected)s::bigint IS NOT NULL,
        clock_timestamp() + make_interval(secs => %(hold)s))
RETURNING id;

-- name: list_jobs
SELECT *, clock_timestamp() AS at FROM jobs
WHERE (%(id)s::bigint IS NULL OR id = %(id)s) AND (%(state)s::text IS NULL OR state = %(state)s)
ORDER BY id DESC LIMIT %(most)s;

-- name: list_counts
SELECT tenant, name, count FROM job_counts WHERE job = %(id)s ORDER BY tenant, name;

-- Those that waited for longest first.
-- name: list_waiting
SELECT id FROM jobs WHERE state = 'running' AND begins_at <= clock_timestamp()
ORDER BY stepped_at NULLS FIRST, id LIMIT 100;

-- name: lock
SELECT *, clock_timestamp() AS at FROM jobs WHERE id = %(id)s AND state = 'running' FOR UPDATE SKIP LOCKED;

-- name: note_count
UPDATE jobs SET expected = %(expected)s, is_counted = true WHERE id = %(id)s;

-- name: advance
UPDATE jobs SET position = %(position)s, passes = %(passes)s, looked_at = looked_at + %(looked_at)s,
    changed = changed + %(changed)s, tokens = %(tokens)s, counted_at = %(at)s, stepped_at = clock_timestamp(),
    state = CASE WHEN %(is_over)s THEN 'done' ELSE state END,
    finished_at = CASE WHEN %(is_over)s THEN clock_timestamp() END
WHERE id = %(id)s;

-- name: add_counts
INSERT INTO job_counts AS c (job, tenant, name, count)
SELECT %(id)s, tenant, name, count
FROM unnest(%(tenants)s::text[], %(names)s::text[], %(counts)s::bigint[]) AS added(tenant, name, count)
ON CONFLICT (job, tenant, name) DO UPDATE SET count = c.count + excluded.count;

-- name: change_state
UPDATE jobs SET state = %(to)s, error = %(error)s, counted_at = clock_timestamp(),
    finished_at = CASE WHEN %(to)s IN ('cancelled', 'failed') THEN clock_timestamp() END
WHERE id = %(id)s AND state = ANY (%(from)s::text[])
RETURNING id;

-- name: release
UPDATE jobs SET begins_at = clock_timestamp() WHERE id = %(id)s AND begins_at > clock_timestamp();

-- name: forget
DELETE FROM jobs WHERE finished_at < clock_timestamp() - make_interval(days => %(days)s);
