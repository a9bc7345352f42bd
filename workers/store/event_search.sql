-- Ids of the next events that fit, the newest first, with the place of each in the walk. Each query walks one index in the
-- order of ids, `bound` rows at the most (and those of the same event), and ends with the page. The last row has how many
-- rows were looked at, and the id of the last; of a full page, 0 and NULL. Filters that are NULL select everything; the
-- planner sees each value (never prepared). For the page of newer ones the same walks go the other way, with ASC for DESC.

-- Compiling a statement takes longer than running it.
-- name: prepare_search
SELECT set_config('jit', 'off', true), set_config('work_mem', '16MB', true);

-- Of a subject, by its index; else of one tenant or of all.
-- name: walk_events
WITH looked AS MATERIALIZED (
    SELECT id, fits, row_number() OVER () AS place FROM (
        SELECT e.id,
               (%(tenant)s::text IS NULL OR e.tenant = %(tenant)s)
               AND (%(provider)s::text IS NULL OR e.provider = %(provider)s)
               AND (%(type)s::text IS NULL OR e.type = %(type)s)
               AND (%(state)s::text IS NULL OR e.state = %(state)s)
               AND (%(reason)s::text IS NULL OR e.reject_reason = %(reason)s)
               AND CASE %(outcome)s::text
                       WHEN 'any' THEN (
                           SELECT true FROM deliveries AS d WHERE d.event_id = e.id AND d.handler = %(handler)s LIMIT 1
                       ) IS NOT NULL OR (
                           SELECT true FROM deliveries_done AS d WHERE d.event_id = e.id AND d.handler = %(handler)s LIMIT 1
                       ) IS NOT NULL
                       WHEN 'open' THEN (
                           SELECT true FROM deliveries AS d
                           WHERE d.event_id = e.id AND (%(handler)s::text IS NULL OR d.handler = %(handler)s) LIMIT 1
                       ) IS NOT NULL
                       WHEN 'retrying' THEN (
                           SELECT true FROM deliveries AS d
                           WHERE d.event_id = e.id AND (%(handler)s::text IS NULL OR d.handler = %(handler)s)
                             AND d.state = 'pending' AND NOT d.ready AND d.due_at < parked() LIMIT 1
                       ) IS NOT NULL
                       WHEN 'handled' THEN (
                           SELECT bool_and(d.state = 'succeeded') FROM deliveries_done AS d
                           WHERE d.event_id = e.id AND (%(handler)s::text IS NULL OR d.handler = %(handler)s)
                       ) IS true AND (
                           SELECT true FROM deliveries AS d
                           WHERE d.event_id = e.id AND (%(handler)s::text IS NULL OR d.handler = %(handler)s) LIMIT 1
                       ) IS NULL
                       WHEN 'unwanted' THEN e.state = 'accepted' AND (
                           SELECT true FROM deliveries AS d
                           WHERE d.event_id = e.id AND (%(handler)s::text IS NULL OR d.handler = %(handler)s) LIMIT 1
                       ) IS NULL AND (
                           SELECT true FROM deliveries_done AS d
                           WHERE d.event_id = e.id AND (%(handler)s::text IS NULL OR d.handler = %(handler)s) LIMIT 1
                       ) IS NULL
                       ELSE %(outcome)s::text IS NULL OR (
                           SELECT true FROM deliveries_done AS d
                           WHERE d.event_id = e.id AND (%(handler)s::text IS NULL OR d.handler = %(handler)s)
                             AND d.state = %(outcome)s LIMIT 1
                       ) IS NOT NULL
                   END AS fits
        FROM events AS e
        WHERE (%(subject)s::text IS NULL OR hashtextextended(e.subject, 0) = hashtextextended(%(subject)s, 0)
                                            AND e.subject = %(subject)s)
          AND (%(subject)s::text IS NOT NULL OR %(tenant)s::text IS NULL OR e.tenant = %(tenant)s)
          AND (%(since)s::timestamptz IS NULL OR e.id >= uuid_at(%(since)s))
          AND (%(until)s::timestamptz IS NULL OR e.id < uuid_at(%(until)s))
          AND (%(before)s::uuid IS NULL OR e.id < %(before)s)
          AND (%(after)s::uuid IS NULL OR e.id > %(after)s)
        ORDER BY e.id DESC LIMIT %(bound)s
    ) AS walk
), found AS MATERIALIZED (
    SELECT id, place FROM looked WHERE fits LIMIT %(most)s
)
SELECT id, place FROM found
UNION ALL
SELECT (array_agg(id))[count(*)], count(*) FROM looked WHERE (SELECT count(*) FROM found) < %(most)s;

-- Of each reason, the newest: the index of rejected events begins with it.
-- name: walk_rejected
WITH RECURSIVE reason AS (
    (SELECT reject_reason AS name, 1 AS number FROM events
     WHERE state = 'rejected' AND (%(reason)s::text IS NULL OR reject_reason = %(reason)s)
     ORDER BY reject_reason LIMIT 1)
    UNION ALL
    SELECT (SELECT e.reject_reason FROM events AS e WHERE e.state = 'rejected' AND e.reject_reason > r.name
            ORDER BY e.reject_reason LIMIT 1), r.number + 1
    FROM reason AS r WHERE r.name IS NOT NULL AND r.number < 100 AND %(reason)s::text IS NULL
), looked AS MATERIALIZED (
    SELECT id, fits, row_number() OVER () AS place FROM (
        SELECT found.id,
               %(provider)s::text IS NULL AND %(type)s::text IS NULL OR (
                   SELECT true FROM events AS e
                   WHERE e.id = found.id AND (%(provider)s::text IS NULL OR e.provider = %(provider)s)
                     AND (%(type)s::text IS NULL OR e.type = %(type)s) LIMIT 1
               ) IS NOT NULL AS fits
        FROM reason AS r CROSS JOIN LATERAL (
            SELECT e.id FROM events AS e
            WHERE e.state = 'rejected' AND e.reject_reason = r.name
              AND (%(since)s::timestamptz IS NULL OR e.id >= uuid_at(%(since)s))
              AND (%(until)s::timestamptz IS NULL OR e.id < uuid_at(%(until)s))
              AND (%(before)s::uuid IS NULL OR e.id < %(before)s)
              AND (%(after)s::uuid IS NULL OR e.id > %(after)s)
            ORDER BY e.id DESC LIMIT %(bound)s
        ) AS found
        ORDER BY found.id DESC LIMIT %(bound)s
    ) AS walk
), found AS MATERIALIZED (
    SELECT id, place FROM looked WHERE fits LIMIT %(most)s
)
SELECT id, place FROM found
UNION ALL
SELECT (array_agg(id))[count(*)], count(*) FROM looked WHERE (SELECT count(*) FROM found) < %(most)s;

-- Of several open deliveries of an event that fit, the one whose handler comes last stands for it.
-- name: walk_open
WITH looked AS MATERIALIZED (
    SELECT id, fits, row_number() OVER () AS place FROM (
        SELECT d.event_id AS id,
               (%(handler)s::text IS NULL OR d.handler = %(handler)s)
               AND (%(outcome)s::text = 'open' OR d.state = 'pending' AND NOT d.ready AND d.due_at < parked())
               AND (%(provider)s::text IS NULL AND %(type)s::text IS NULL OR (
                   SELECT true FROM events AS e
                   WHERE e.id = d.event_id AND (%(provider)s::text IS NULL OR e.provider = %(provider)s)
                     AND (%(type)s::text IS NULL OR e.type = %(type)s) LIMIT 1
               ) IS NOT NULL)
               AND (%(handler)s::text IS NOT NULL OR (
                   SELECT true FROM deliveries AS o
                   WHERE o.event_id = d.event_id AND o.handler > d.handler
                     AND (%(outcome)s::text = 'open' OR o.state = 'pending' AND NOT o.ready AND o.due_at < parked()) LIMIT 1
               ) IS NULL) AS fits
        FROM deliveries AS d
        WHERE (%(since)s::timestamptz IS NULL OR d.event_id >= uuid_at(%(since)s))
          AND (%(until)s::timestamptz IS NULL OR d.event_id < uuid_at(%(until)s))
          AND (%(before)s::uuid IS NULL OR d.event_id < %(before)s)
          AND (%(after)s::uuid IS NULL OR d.event_id > %(after)s)
        ORDER BY d.event_id DESC FETCH FIRST (%(bound)s) ROWS WITH TIES
    ) AS walk
), found AS MATERIALIZED (
    SELECT id, place FROM looked WHERE fits LIMIT %(most)s
)
SELECT id, place FROM found
UNION ALL
SELECT (array_agg(id))[count(*)], count(*) FROM looked WHERE (SELECT count(*) FROM found) < %(most)s;

-- The same of finished ones in one state. The index of those that did not succeed begins with the tenant.
-- name: walk_done
WITH looked AS MATERIALIZED (
    SELECT id, fits, row_number() OVER () AS place FROM (
        SELECT d.event_id AS id,
               (%(handler)s::text IS NULL OR d.handler = %(handler)s)
               AND (%(provider)s::text IS NULL AND %(type)s::text IS NULL OR (
                   SELECT true FROM events AS e
                   WHERE e.id = d.event_id AND (%(provider)s::text IS NULL OR e.provider = %(provider)s)
                     AND (%(type)s::text IS NULL OR e.type = %(type)s) LIMIT 1
               ) IS NOT NULL)
               AND (%(handler)s::text IS NOT NULL OR (
                   SELECT true FROM deliveries_done AS o
                   WHERE o.event_id = d.event_id AND o.handler > d.handler AND o.state = %(done)s LIMIT 1
               ) IS NULL) AS fits
        FROM deliveries_done AS d
        WHERE d.state = %(done)s
          AND (%(tenant)s::text IS NULL OR d.tenant = %(tenant)s)
          AND (%(tenant)s::text IS NULL OR %(handler)s::text IS NULL OR d.handler = %(handler)s)
          AND (%(since)s::timestamptz IS NULL OR d.event_id >= uuid_at(%(since)s))
          AND (%(until)s::timestamptz IS NULL OR d.event_id < uuid_at(%(until)s))
          AND (%(before)s::uuid IS NULL OR d.event_id < %(before)s)
          AND (%(after)s::uuid IS NULL OR d.event_id > %(after)s)
        ORDER BY d.event_id DESC FETCH FIRST (%(bound)s) ROWS WITH TIES
    ) AS walk
), found AS MATERIALIZED (
    SELECT id, place FROM looked WHERE fits LIMIT %(most)s
)
SELECT id, place FROM found
UNION ALL
SELECT (array_agg(id))[count(*)], count(*) FROM looked WHERE (SELECT count(*) FROM found) < %(most)s;

-- name: measure_bodies
SELECT it.id, (SELECT octet_length(e.body) FROM events AS e WHERE e.id = it.id) AS bytes
FROM unnest(%(ids)b::uuid[]) WITH ORDINALITY AS it(id, place) ORDER BY it.place;

-- Bodies that may hold a text: those with this part of it, and those that write letters as \u00xx. As Latin 1, in which all
-- bytes are characters but 0, which no JSON has.
-- name: read_bodies
SELECT it.id, e.body
FROM unnest(%(ids)b::uuid[]) WITH ORDINALITY AS it(id, place) CROSS JOIN LATERAL (
    SELECT body FROM events
    WHERE id = it.id AND CASE WHEN position('\x00'::bytea IN body) = 0 THEN
              strpos(lower(convert_from(body, 'LATIN1') COLLATE "C"), %(part)s) > 0
              OR strpos(convert_from(body, 'LATIN1') COLLATE "C", '\u00') > 0
          END
    LIMIT 1
) AS e
ORDER BY it.place;

-- name: read_summaries
SELECT e.id, e.provider, e.tenant, e.type, e.subject, e.received_at, e.stored_at, e.secret_label, e.state, e.reject_reason
FROM unnest(%(ids)b::uuid[]) AS it(id) CROSS JOIN LATERAL (SELECT * FROM events WHERE id = it.id LIMIT 1) AS e;
