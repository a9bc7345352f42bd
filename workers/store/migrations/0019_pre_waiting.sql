-- What waits for its next attempt, by tenant: lists of a tenant would read all open deliveries for it. Nothing that succeeds
-- at once is ever in it.
CREATE INDEX deliveries_waiting ON deliveries (tenant, event_id) WHERE state = 'pending' AND NOT ready;
