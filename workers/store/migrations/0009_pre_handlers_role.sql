-- A role for handlers that may record the success of a delivery whose claim it holds, and nothing else of the pipeline's.

-- Of the latest claim: with the event and the fence alone anybody could finish what another worker runs.
ALTER TABLE deliveries ADD COLUMN token uuid;

-- Finish a running delivery as succeeded, with the rights of the tables' owner. `mark` is what the caller's transaction was
-- begun with: one that the handler has begun itself has none. `took`: seconds of the run. A handler may have made temporary
-- tables, operators and paths, so it has a path of its own, in which they come last or not at all.
CREATE FUNCTION record_success(event uuid, handler_name text, claim_fence bigint, claim_token uuid, mark text, took float8)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    finished deliveries;
BEGIN
    DELETE FROM deliveries AS d
    WHERE d.event_id = event AND d.handler = handler_name AND d.fence = claim_fence AND d.token = claim_token
      AND d.state = 'running'
    RETURNING d.* INTO finished;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the claim % of this delivery is not the latest', claim_fence USING ERRCODE = 'no_data_found';
    END IF;
    IF current_setting('pipeline.delivery', true) IS DISTINCT FROM mark THEN
        RAISE EXCEPTION 'this is not the transaction of the delivery' USING ERRCODE = 'invalid_transaction_state';
    END IF;
    INSERT INTO deliveries_done (event_id, handler, tenant, state, attempt, fence, worker, last_error, created_at)
    VALUES (event, handler_name, finished.tenant, 'succeeded', finished.attempt + 1, claim_fence, finished.worker,
            finished.last_error, finished.created_at);
    INSERT INTO tallies_new (tenant, handler, outcome, seconds, waits)
    VALUES (finished.tenant, handler_name, 'succeeded', ARRAY[took],
            ARRAY[extract(epoch FROM clock_timestamp() - finished.created_at)]);
END $$;
REVOKE ALL ON FUNCTION record_success FROM PUBLIC;

-- What it fires runs with the same rights.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY '{record_success,wake_next_of_subject,lower_lane_mark}'::text[] LOOP
        EXECUTE format('ALTER FUNCTION %I SET search_path = %I, pg_temp', name, current_schema());
    END LOOP;
END $$;
