-- Who may use the console, and as what.

CREATE TABLE console_users (
    name          text COLLATE "C" PRIMARY KEY,
    password_hash text,                               -- argon2; NULL: a proxy says who they are
    role          text NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    tenants       text[],                             -- whose things an operator may change; NULL: of all
    created_at    timestamptz NOT NULL DEFAULT now(),
    disabled_at   timestamptz,
    CONSTRAINT tenants_of_operators CHECK (tenants IS NULL OR (role = 'operator' AND cardinality(tenants) > 0))
);

-- `is_proxied`: begun for what a proxy's header said, and valid only beside it.
CREATE TABLE console_sessions (
    token_digest bytea PRIMARY KEY,                   -- SHA-256
    name         text COLLATE "C" NOT NULL REFERENCES console_users ON DELETE CASCADE,
    is_proxied   boolean NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL DEFAULT now(),
    seen_at      timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX console_sessions_name ON console_sessions (name, created_at);
CREATE INDEX console_sessions_expires ON console_sessions (expires_at);

-- Attempts to sign in that have failed, or have not ended yet; each is removed with the first one a quarter of an hour later.
CREATE TABLE console_attempts (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    counted_by bytea NOT NULL,                        -- SHA-256 of a name, an address or a browser
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX console_attempts_counted_by ON console_attempts (counted_by, at);
CREATE INDEX console_attempts_at ON console_attempts (at);

-- As before; of a password, it says that it has changed.
CREATE OR REPLACE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
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
    IF old_row -> 'password_hash' <> new_row -> 'password_hash' THEN  -- of NULL, too: it is JSON's null here
        old_row := old_row || '{"password": "before"}';
        new_row := new_row || '{"password": "anew"}';
    END IF;
    old_row := old_row - ARRAY['ciphertext', 'password_hash'];
    new_row := new_row - ARRAY['ciphertext', 'password_hash'];
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

CREATE TRIGGER console_users_audit AFTER INSERT OR UPDATE OR DELETE ON console_users
    FOR EACH ROW EXECUTE FUNCTION note_change('name');
