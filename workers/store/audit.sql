-- name: act_as
SELECT set_config('pipeline.who', %(who)s, %(is_local)s), set_config('pipeline.why', %(why)s, %(is_local)s);

-- name: record
INSERT INTO audit (who, what, target, before, after, why) VALUES (
    coalesce(%(who)s::text, nullif(current_setting('pipeline.who', true), ''), session_user),
    %(what)s, %(target)s, %(before)s, %(after)s,
    coalesce(%(why)s::text, nullif(current_setting('pipeline.why', true), ''))
);

-- Newest first, from the end of the table: what is asked for is bounded, and a target has an index.
-- name: list_entries
SELECT id, at, who, what, target, before, after, why FROM audit
WHERE (%(who)s::text IS NULL OR who = %(who)s)
  AND (%(what)s::text IS NULL OR starts_with(what, %(what)s))
  AND (%(target)s::text IS NULL OR target = %(target)s OR target ^@ (%(target)s || ' '))
  AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
  AND (%(before_id)s::bigint IS NULL OR id < %(before_id)s)
ORDER BY id DESC LIMIT %(most)s;
