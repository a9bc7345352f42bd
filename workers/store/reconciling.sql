-- What came of a tenant in a time, page by page along the index (tenant, id).

-- name: bounds
SELECT uuid_at(coalesce(%(since)s, 'epoch'::timestamptz)) AS after,
       coalesce(uuid_at(%(until)s), 'ffffffff-ffff-ffff-ffff-ffffffffffff') AS before;

-- name: list_came
SELECT e.id, e.provider, e.type, e.subject, e.state, e.reject_reason,
       (SELECT count(*) FROM arrivals AS a WHERE a.first_id = e.id) AS arrivals,
       array(SELECT d.handler FROM deliveries AS d WHERE d.event_id = e.id ORDER BY d.handler) AS waiting,
       array(
           SELECT d.handler FROM deliveries_done AS d WHERE d.event_id = e.id AND d.state <> 'succeeded' ORDER BY d.handler
       ) AS failed,
       EXISTS (SELECT FROM deliveries_done AS d WHERE d.event_id = e.id OFFSET 0) AS finished
FROM (
    SELECT id, provider, type, subject, state, reject_reason FROM events
    WHERE tenant = %(tenant)s AND id > %(after)s AND id < %(before)s
    ORDER BY tenant, id LIMIT 5000
) AS e
ORDER BY e.id;
