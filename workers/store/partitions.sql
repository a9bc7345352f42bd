-- Making and dropping the partitions of days. Identifiers are filled in by psycopg.sql; bounds are of `uuid_at`.

-- One at a time, over all processes; held until the transaction ends.
-- name: lock
SELECT pg_advisory_xact_lock(hashtext('pipeline partitions'));

-- Bounds how long other sessions' inserts wait: they queue after a lock that was asked for and not yet given.
-- name: limit_lock_wait
SELECT set_config('lock_timeout', %(timeout)s, true);

-- name: now
SELECT now();

-- name: list_partitions
SELECT c.relname AS name
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = %(parent)s::regclass AND NOT i.inhdetachpending
ORDER BY c.relname;

-- name: owner
SELECT pg_get_userbyid(relowner)::text AS owner, pg_has_role(relowner, 'USAGE') AS is_ours, current_user::text AS role
FROM pg_class WHERE oid = %(table)s::regclass;

-- name: exists
SELECT to_regclass(%(name)s) IS NOT NULL AS exists;

-- name: bounds
SELECT uuid_at(%(day)s::timestamp AT TIME ZONE 'UTC') AS low,
       uuid_at((%(day)s::timestamp + interval '1 day') AT TIME ZONE 'UTC') AS high;

-- Days of the window with rows in the DEFAULT partition, from the oldest; found by jumping from day to day.
-- name: days_in_default
WITH RECURSIVE day_of(day) AS (
    (SELECT (uuid_time({key}) AT TIME ZONE 'UTC')::date FROM {default}
     WHERE {key} >= uuid_at(%(since)s::timestamp AT TIME ZONE 'UTC')
       AND {key} < uuid_at(%(before)s::timestamp AT TIME ZONE 'UTC')
     ORDER BY {key} LIMIT 1)
    UNION ALL
    SELECT (SELECT (uuid_time({key}) AT TIME ZONE 'UTC')::date FROM {default}
            WHERE {key} >= uuid_at((d.day + 1)::timestamp AT TIME ZONE 'UTC')
              AND {key} < uuid_at(%(before)s::timestamp AT TIME ZONE 'UTC')
            ORDER BY {key} LIMIT 1)
    FROM day_of AS d WHERE d.day IS NOT NULL
)
SELECT day FROM day_of WHERE day IS NOT NULL;

-- With the indexes, so that attaching finds them, and with the CHECK, so that attaching need not look at the rows.
-- name: create_table
CREATE TABLE {partition} (
    LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE,
    CONSTRAINT {check} CHECK ({key} >= {low} AND {key} < {high})
);

-- Only the DEFAULT partition is locked against writers, when nearly all of the day's rows have been moved.
-- name: lock_default
LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE;

-- name: move_rows
WITH moved AS (DELETE FROM {default} WHERE {key} >= {low} AND {key} < {high} RETURNING *)
INSERT INTO {partition} SELECT * FROM moved;

-- The index still holds what was moved, a million entries that lead to rows that are gone; reading the table in its own
-- order takes a third of the time, while inserts wait.
-- name: read_in_order
SELECT set_config('enable_indexscan', 'off', true), set_config('enable_bitmapscan', 'off', true);

-- Reads DEFAULT once more: no other proof that the day's rows are gone is possible while inserts go on.
-- name: attach
ALTER TABLE {parent} ATTACH PARTITION {partition} FOR VALUES FROM ({low}) TO ({high});

-- name: drop_check
ALTER TABLE {partition} DROP CONSTRAINT {check};

-- Against readers too: who reads an event to make a delivery of it has committed when this is held.
-- name: lock_tables
LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE;

-- What was stored late is kept as long as anything else, and so is open work.
-- name: is_needed
SELECT EXISTS (SELECT FROM deliveries WHERE event_id >= %(low)s AND event_id < %(high)s)
    OR EXISTS (SELECT FROM late_days WHERE day = %(day)s AND until > %(before)s) AS needed;

-- name: drop_tables
DROP TABLE {tables};

-- What is left of the day in DEFAULT, and the arrivals there that belong to its events.
-- name: delete_day
DELETE FROM {default} WHERE {key} >= %(low)s AND {key} < %(high)s;

-- name: delete_arrivals_of_day
DELETE FROM arrivals_default WHERE first_id >= %(low)s AND first_id < %(high)s;

-- name: forget_late_days
DELETE FROM late_days WHERE until <= %(before)s;

-- In batches, each a transaction: a drain that meets one of these receipts waits for milliseconds.
-- name: delete_receipts
DELETE FROM receipts WHERE ctid = ANY (ARRAY(SELECT ctid FROM receipts WHERE stored_at < %(before)s LIMIT %(most)s));

-- The same for those of versions that noted no moment.
-- name: delete_old_receipts
DELETE FROM receipts WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM receipts WHERE event_id < uuid_at(%(before)s) AND stored_at IS NULL LIMIT %(most)s
));

-- Events outside of all days, whose time is over.
-- name: list_strays
SELECT e.id FROM events_default AS e
WHERE e.stored_at < %(before)s AND NOT EXISTS (SELECT FROM deliveries AS d WHERE d.event_id = e.id)
ORDER BY e.stored_at LIMIT %(most)s;

-- With all that belongs to them. Work that was opened meanwhile keeps its event.
-- name: delete_strays
WITH gone AS (
    DELETE FROM events_default AS e
    WHERE e.id = ANY (%(ids)b::uuid[]) AND NOT EXISTS (SELECT FROM deliveries AS d WHERE d.event_id = e.id)
    RETURNING e.id
), done AS (
    DELETE FROM deliveries_done_default WHERE event_id IN (SELECT id FROM gone)
), failed AS (
    DELETE FROM attempts_default WHERE event_id IN (SELECT id FROM gone)
)
DELETE FROM arrivals_default WHERE first_id IN (SELECT id FROM gone);
