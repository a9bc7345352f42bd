-- Failed attempts to sign in, so that passwords cannot be guessed.

-- One after the other: of many at once, none may be checked before the others are counted.
-- name: lock
LOCK TABLE console_attempts IN SHARE ROW EXCLUSIVE MODE;

-- name: remove_old
DELETE FROM console_attempts WHERE at <= clock_timestamp() - make_interval(secs => %(window_seconds)s);

-- Until the earliest of as many as are allowed is older than the window.
-- name: read_wait
SELECT coalesce(max(extract(epoch FROM nth.at - clock_timestamp()) + %(window_seconds)s), 0)::float8 AS seconds
FROM unnest(%(counted_by)s::bytea[], %(most)s::integer[]) AS it (counted_by, most)
CROSS JOIN LATERAL (
    SELECT at FROM console_attempts AS a WHERE a.counted_by = it.counted_by ORDER BY at DESC OFFSET it.most - 1 LIMIT 1
) AS nth;

-- name: add
INSERT INTO console_attempts (counted_by) SELECT unnest(%(counted_by)s::bytea[]) RETURNING id;

-- name: forget
DELETE FROM console_attempts WHERE id = ANY (%(ids)s) OR counted_by = ANY (%(counted_by)s);
