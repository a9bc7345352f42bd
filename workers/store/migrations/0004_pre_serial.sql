-- Handlers that run one delivery of a subject at a time, in the order of arrival: `serial` is the subject of theirs.

CREATE TABLE serial_handlers (handler text COLLATE "C" PRIMARY KEY);
ALTER TABLE deliveries ADD COLUMN serial text;
CREATE INDEX deliveries_serial ON deliveries (tenant, handler, serial, event_id) WHERE serial IS NOT NULL;
CREATE INDEX deliveries_serial_in_flight ON deliveries (tenant, handler, serial)
    WHERE serial IS NOT NULL AND state <> 'pending';

-- The moment until which a delivery is parked that waits for an older one of its subject.
CREATE FUNCTION parked() RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN timestamptz '9999-12-30 00:00:00+00';

-- When one has ended, whatever its end, the oldest that is left of its subject is due.
-- It runs in a handler's session too, whatever that has made of its search path.
CREATE FUNCTION wake_next_of_subject() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE deliveries SET ready = true, due_at = created_at
    WHERE handler = OLD.handler AND state = 'pending' AND due_at = parked() AND event_id = (
        SELECT d.event_id FROM deliveries AS d
        WHERE d.tenant = OLD.tenant AND d.handler = OLD.handler AND d.serial = OLD.serial AND d.serial IS NOT NULL
        ORDER BY d.event_id LIMIT 1
    );
    RETURN NULL;
END $$;
CREATE TRIGGER delivery_of_subject_ended AFTER DELETE ON deliveries
    FOR EACH ROW WHEN (OLD.serial IS NOT NULL) EXECUTE FUNCTION wake_next_of_subject();
