-- Where the ready work of a lane begins, so that admission does not walk over what has been finished. While an old
-- snapshot is held (pg_dump, an idle transaction), finished deliveries stay in the index: an admission of 20 took 2.7 ms,
-- and 259 ms after 600,000.

-- The place in its lane: the transaction that made it, or that made a retry due. What comes in later than a moment has
-- at least the oldest transaction that was still running then.
ALTER TABLE deliveries ADD COLUMN position xid8 NOT NULL DEFAULT '0';
ALTER TABLE deliveries ALTER COLUMN position SET DEFAULT pg_current_xact_id();
CREATE INDEX deliveries_position ON deliveries (tenant, handler, position, event_id) WHERE ready;

-- No delivery of the lane that is ready has a position below `low`. A lane without a mark begins at its beginning.
CREATE TABLE lane_marks (
    tenant  text COLLATE "C" NOT NULL,
    handler text COLLATE "C" NOT NULL,
    low     xid8 NOT NULL,
    PRIMARY KEY (tenant, handler)
) WITH (fillfactor = 50);

-- What comes back to its old place lowers the mark. The first lock is shared among those that bring something back, and
-- excludes who makes marks, who does not see it yet; the second lets one after the other lower marks, in any order.
-- It runs in a handler's session too, whatever that has made of its search path.
CREATE FUNCTION lower_lane_mark() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext('pipeline lane marks'));
    IF EXISTS (
        SELECT FROM lane_marks WHERE tenant = NEW.tenant AND handler = NEW.handler AND low > NEW.position
    ) THEN
        PERFORM pg_advisory_xact_lock(hashtext('pipeline lane marks'), 1);
        UPDATE lane_marks SET low = NEW.position
        WHERE tenant = NEW.tenant AND handler = NEW.handler AND low > NEW.position;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER delivery_came_back AFTER UPDATE ON deliveries
    FOR EACH ROW WHEN (NEW.ready AND NOT OLD.ready AND NEW.position = OLD.position)
    EXECUTE FUNCTION lower_lane_mark();

-- The next step of a walk over the lanes: the first ready delivery at or after this place, or the mark of a lane if that
-- comes first. Then `event_id` is NULL, and the walk goes on from the place where the lane's ready work begins. `until`: the
-- last tenant, NULL for all. A mark of a transaction that is still to come was made on another server, before a dump was
-- restored here.
CREATE FUNCTION next_ready(tenant text, handler text, "position" xid8, until text)
RETURNS TABLE (tenant text, handler text, event_id uuid, alone boolean, "position" xid8, due_at timestamptz)
LANGUAGE sql STABLE ROWS 1 AS $$
    SELECT coalesce(found.tenant, mark.tenant), coalesce(found.handler, mark.handler), found.event_id, found.alone,
           coalesce(found.position, CASE
               WHEN mark.low <= (SELECT pg_snapshot_xmin(pg_current_snapshot())) THEN mark.low ELSE '0'
           END), found.due_at
    FROM (SELECT) AS one LEFT JOIN LATERAL (
        SELECT m.tenant, m.handler, m.low FROM lane_marks AS m
        WHERE (m.tenant, m.handler) > ($1, $2) AND m.tenant <= coalesce($4, U&'\+10FFFF')
          AND EXISTS (SELECT FROM lane_marks)  -- asked once a query; mostly there are none
        ORDER BY m.tenant, m.handler LIMIT 1
    ) AS mark ON true LEFT JOIN LATERAL (
        SELECT d.tenant, d.handler, d.event_id, d.alone, d.position, d.due_at FROM deliveries AS d
        WHERE d.ready AND (d.tenant, d.handler, d.position) >= ($1, $2, $3)
          AND (d.tenant, d.handler) < (coalesce(mark.tenant, $4, U&'\+10FFFF'), coalesce(mark.handler, U&'\+10FFFF'))
        ORDER BY d.tenant, d.handler, d.position, d.event_id LIMIT 1
    ) AS found ON true
    WHERE found.tenant IS NOT NULL OR mark.tenant IS NOT NULL
$$;

-- The same from what was found last, a delivery or a mark: the next tenant's, or the next lane's of the tenant.
CREATE FUNCTION next_tenant(tenant text, handler text, event_id uuid, "position" xid8, until text)
RETURNS TABLE (tenant text, handler text, event_id uuid, alone boolean, "position" xid8, due_at timestamptz)
LANGUAGE sql STABLE ROWS 1 AS $$
    SELECT next.* FROM next_ready(
        $1, CASE WHEN $3 IS NULL THEN $2 ELSE U&'\+10FFFF' END,
        CASE WHEN $3 IS NULL THEN $4 ELSE '18446744073709551615' END, $5
    ) AS next
$$;
CREATE FUNCTION next_lane(tenant text, handler text, event_id uuid, "position" xid8)
RETURNS TABLE (tenant text, handler text, event_id uuid, alone boolean, "position" xid8, due_at timestamptz)
LANGUAGE sql STABLE ROWS 1 AS $$
    SELECT next.* FROM next_ready(
        $1, $2, CASE WHEN $3 IS NULL THEN $4 ELSE '18446744073709551615' END, $1
    ) AS next
$$;
