-- name: declare_serial
WITH declared AS (
    INSERT INTO serial_handlers (handler) SELECT unnest(%(serial)s::text[]) ON CONFLICT DO NOTHING
)
DELETE FROM serial_handlers WHERE handler = ANY (%(others)s::text[]);

-- Candidates that wait for another of their subject: for an older one, whatever it waits for, or for one in flight.
-- They are parked, and the end of what they wait for wakes the next one. It is locked until that is committed, so that
-- it cannot end unseen; what is just ending parks nobody. One that is parked itself is woken: it is its turn.
-- name: park_blocked
WITH candidate AS MATERIALIZED (
    SELECT d.event_id, d.handler, d.tenant, d.serial
    FROM unnest(%(event_ids)b::uuid[], %(handlers)b::text[]) AS it(event_id, handler) CROSS JOIN LATERAL (
        SELECT * FROM deliveries AS d
        WHERE d.event_id = it.event_id AND d.handler = it.handler LIMIT 1
    ) AS d
    WHERE d.serial IS NOT NULL
), blocked AS MATERIALIZED (
    SELECT c.event_id, c.handler, blocker.event_id AS blocker
    FROM candidate AS c CROSS JOIN LATERAL (
        SELECT event_id FROM (
            (
                SELECT o.event_id FROM deliveries AS o
                WHERE o.tenant = c.tenant AND o.handler = c.handler AND o.serial = c.serial AND o.serial IS NOT NULL
                ORDER BY o.tenant, o.handler, o.serial, o.event_id LIMIT 1
            )
            UNION ALL
            (
                SELECT o.event_id FROM deliveries AS o
                WHERE o.tenant = c.tenant AND o.handler = c.handler AND o.serial = c.serial AND o.serial IS NOT NULL
                  AND o.state <> 'pending'
                ORDER BY o.tenant, o.handler, o.serial LIMIT 1
            )
        ) AS other
        WHERE event_id <> c.event_id LIMIT 1
    ) AS blocker
), held AS MATERIALIZED (
    SELECT b.handler, lock.place AS blocker, found.place
    FROM blocked AS b CROSS JOIN LATERAL (
        SELECT o.ctid AS place FROM deliveries AS o
        WHERE o.event_id = b.blocker AND o.handler = b.handler LIMIT 1 FOR KEY SHARE SKIP LOCKED
    ) AS lock CROSS JOIN LATERAL (
        SELECT o.ctid AS place FROM deliveries AS o
        WHERE o.event_id = b.event_id AND o.handler = b.handler AND o.ready::integer = 1 LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS found
), parked AS (
    UPDATE deliveries AS d SET ready = false, due_at = parked()
    FROM held AS h WHERE d.ctid = h.place
), woken AS (
    UPDATE deliveries AS d SET ready = true, due_at = created_at
    FROM (SELECT DISTINCT blocker FROM held) AS h
    WHERE d.ctid = h.blocker AND d.state || '' = 'pending' AND d.due_at = parked()
)
SELECT event_id, handler FROM blocked;
