-- The outbox of alerts: what each channel is sent, in order, once as far as a receiver that may not answer allows.

-- A channel that is new begins with what is told from now on.
-- name: open_channel
INSERT INTO alert_channels (name, seen) SELECT %(channel)s, coalesce(max(id), 0) FROM incident_notices
ON CONFLICT (name) DO NOTHING;

-- name: lock_channel
SELECT seen FROM alert_channels WHERE name = %(channel)s FOR UPDATE;

-- `told`: of a tenant that joined, whether the channel, which is for `tenants` only, was told before that it is open.
-- name: list_notices
SELECT n.id AS notice, n.kind AS notice_kind, n.tenants AS notice_tenants, n.at AS noticed_at,
       n.kind = 'joined' AND EXISTS (
           SELECT FROM incident_notices AS o
           WHERE o.incident = n.incident AND o.id < n.id AND o.at >= i.opened_at AND o.kind IN ('opened', 'joined')
             AND o.tenants && %(tenants)s::text[]
       ) AS told,
       i.id, i.kind, i.subject, i.cause, i.example, i.state, i.first_seen, i.last_seen, i.resolved_at, i.resolved_by, i.count,
       i.waiting,
       array(SELECT t.tenant FROM incident_tenants AS t
             WHERE t.incident = i.id AND (%(tenants)s::text[] IS NULL OR t.tenant = ANY (%(tenants)s::text[]))
             ORDER BY t.count DESC, t.tenant LIMIT 20) AS tenants,
       (SELECT count(*) FROM incident_tenants AS t
        WHERE t.incident = i.id AND (%(tenants)s::text[] IS NULL OR t.tenant = ANY (%(tenants)s::text[]))) AS tenant_count,
       (SELECT sum(t.count)::bigint FROM incident_tenants AS t
        WHERE t.incident = i.id AND t.tenant = ANY (%(tenants)s::text[])) AS tenants_count
FROM incident_notices AS n JOIN incidents AS i ON i.id = n.incident
WHERE n.id > %(seen)s ORDER BY n.id LIMIT %(most)s;

-- name: count_made
SELECT count(*) AS count FROM alert_messages
WHERE channel = %(channel)s AND made_at > now() - make_interval(secs => %(window)s);

-- name: add_message
INSERT INTO alert_messages (channel, content) VALUES (%(channel)s, %(content)s::jsonb);

-- name: move_channel
UPDATE alert_channels SET seen = %(seen)s WHERE name = %(channel)s;

-- name: list_due
SELECT channel FROM unnest(%(channels)s::text[]) AS it(channel) CROSS JOIN LATERAL (
    SELECT due_at FROM alert_messages AS m WHERE m.channel = it.channel AND m.state = 'waiting' ORDER BY number LIMIT 1
) AS head
WHERE head.due_at <= clock_timestamp();

-- The oldest of a channel, if it is due: until `lease` is over nobody else takes it, and those after it wait for it.
-- name: claim
UPDATE alert_messages SET attempts = attempts + 1, due_at = clock_timestamp() + make_interval(secs => %(lease)s)
WHERE number = (
    SELECT number FROM (
        SELECT number, due_at FROM alert_messages
        WHERE channel = %(channel)s AND state = 'waiting' ORDER BY number LIMIT 1 FOR UPDATE
    ) AS head WHERE due_at <= clock_timestamp()
) AND due_at <= clock_timestamp() AND state = 'waiting'
RETURNING number, id, content, attempts, made_at;

-- Of the claim with this number of attempts only.
-- name: mark_sent
UPDATE alert_messages SET state = 'sent', ended_at = clock_timestamp(), error = NULL
WHERE number = %(number)s AND state = 'waiting';

-- name: mark_failed
UPDATE alert_messages SET
    error = %(error)s,
    due_at = clock_timestamp() + make_interval(secs => %(wait)s),
    state = CASE WHEN %(gives_up)s THEN 'failed' ELSE 'waiting' END,
    ended_at = CASE WHEN %(gives_up)s THEN clock_timestamp() END
WHERE number = %(number)s AND state = 'waiting' AND attempts = %(attempts)s;

-- name: read_channels
SELECT it.channel AS name, c.seen IS NOT NULL AS known,
       (SELECT count(*) FROM alert_messages AS m WHERE m.channel = it.channel AND m.state = 'waiting') AS waiting,
       last.ended_at AS last_sent, head.attempts, head.error, head.due_at AS next_attempt
FROM unnest(%(channels)s::text[]) AS it(channel)
LEFT JOIN alert_channels AS c ON c.name = it.channel
LEFT JOIN LATERAL (
    SELECT ended_at FROM alert_messages AS m WHERE m.channel = it.channel AND m.state = 'sent' ORDER BY number DESC LIMIT 1
) AS last ON true
LEFT JOIN LATERAL (
    SELECT attempts, error, due_at FROM alert_messages AS m
    WHERE m.channel = it.channel AND m.state = 'waiting' ORDER BY number LIMIT 1
) AS head ON true
ORDER BY it.channel;

-- What has been sent or given up a while ago, and what waits for a channel that is not configured any more.
-- name: drop_old
DELETE FROM alert_messages WHERE number IN (
    SELECT number FROM alert_messages WHERE made_at < now() - interval '7 days' LIMIT 1000
);
