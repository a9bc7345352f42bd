-- Who changed what, when and why. Rows are only ever added: the application's role has no other right, and the trigger
-- refuses the owner too.

CREATE TABLE audit (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    who    text NOT NULL,                             -- a user of the system or of the console
    what   text COLLATE "C" NOT NULL,                 -- such as "tenants changed"
    target text COLLATE "C" NOT NULL,                 -- such as "acme"
    before jsonb,                                     -- of what changed only; never a secret
    after  jsonb,
    why    text
);
CREATE INDEX audit_target ON audit (target, id);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the table % is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Who and why come from the session: see `act_as` in workers/store/audit.py. The arguments name the columns of the key.
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    old_row jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
    new_row jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
    named   text;
BEGIN
    SELECT string_agg(coalesce(new_row, old_row) ->> name, ' ' ORDER BY place) INTO named
    FROM unnest(TG_ARGV) WITH ORDINALITY AS key(name, place);
    IF old_row -> 'ciphertext' <> new_row -> 'ciphertext' THEN
        old_row := old_row || '{"encrypted": "before"}';
        new_row := new_row || '{"encrypted": "anew"}';
    END IF;
    old_row := old_row - 'ciphertext';
    new_row := new_row - 'ciphertext';
    IF TG_OP = 'UPDATE' THEN
        SELECT jsonb_object_agg(key, old_row -> key), jsonb_object_agg(key, new_row -> key) INTO old_row, new_row
        FROM jsonb_object_keys(new_row) AS key WHERE new_row -> key IS DISTINCT FROM old_row -> key;
    END IF;
    IF TG_OP <> 'UPDATE' OR new_row IS NOT NULL THEN
        INSERT INTO audit (who, what, target, before, after, why) VALUES (
            coalesce(nullif(current_setting('pipeline.who', true), ''), session_user),
            TG_TABLE_NAME || CASE TG_OP WHEN 'INSERT' THEN ' added' WHEN 'DELETE' THEN ' removed' ELSE ' changed' END,
            named, old_row, new_row, nullif(current_setting('pipeline.why', true), '')
        );
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER tenants_audit AFTER INSERT OR UPDATE OR DELETE ON tenants
    FOR EACH ROW EXECUTE FUNCTION note_change('name');
CREATE TRIGGER endpoints_audit AFTER INSERT OR UPDATE OR DELETE ON endpoints
    FOR EACH ROW EXECUTE FUNCTION note_change('tenant', 'provider');
CREATE TRIGGER endpoint_secrets_audit AFTER INSERT OR UPDATE OR DELETE ON endpoint_secrets
    FOR EACH ROW EXECUTE FUNCTION note_change('tenant', 'provider', 'label');
-- What admission counts against a rate is no change of it.
CREATE TRIGGER handler_limits_audit AFTER INSERT OR UPDATE OF max_in_flight, rate OR DELETE ON handler_limits
    FOR EACH ROW EXECUTE FUNCTION note_change('handler', 'tenant');
