-- Who may use the console, and their sessions.

-- name: list_unknown_tenants
SELECT given.name FROM unnest(%(tenants)s::text[]) AS given (name)
WHERE NOT EXISTS (SELECT FROM tenants WHERE tenants.name = given.name) ORDER BY given.name;

-- name: add_person
INSERT INTO console_users (name, role, tenants, password_hash)
VALUES (%(name)s, %(role)s, %(tenants)s, %(password_hash)s)
ON CONFLICT DO NOTHING RETURNING name;

-- name: change_person
UPDATE console_users SET role = %(role)s, tenants = %(tenants)s WHERE name = %(name)s RETURNING name;

-- name: set_password
UPDATE console_users SET password_hash = %(password_hash)s WHERE name = %(name)s RETURNING name;

-- name: renew_hash
UPDATE console_users SET password_hash = %(after)s WHERE name = %(name)s AND password_hash = %(before)s;

-- name: disable_person
UPDATE console_users SET disabled_at = coalesce(disabled_at, now()) WHERE name = %(name)s RETURNING name;

-- name: enable_person
UPDATE console_users SET disabled_at = NULL WHERE name = %(name)s RETURNING name;

-- name: remove_person
DELETE FROM console_users WHERE name = %(name)s RETURNING name;

-- name: list_people
SELECT name, role, tenants, password_hash IS NOT NULL AS has_password, created_at, disabled_at,
       (SELECT max(seen_at) FROM console_sessions AS s WHERE s.name = u.name) AS seen_at
FROM console_users AS u ORDER BY name;

-- name: count_people
SELECT count(*) AS count FROM console_users;

-- name: find_person
SELECT name, role, tenants FROM console_users WHERE name = %(name)s AND disabled_at IS NULL;

-- name: find_hash
SELECT password_hash FROM console_users WHERE name = %(name)s AND disabled_at IS NULL;

-- name: end_expired
DELETE FROM console_sessions WHERE expires_at <= now();

-- All of a person's but the latest.
-- name: end_surplus
DELETE FROM console_sessions WHERE token_digest IN (
    SELECT token_digest FROM console_sessions WHERE name = %(name)s ORDER BY created_at DESC OFFSET %(kept)s
);

-- name: start_session
INSERT INTO console_sessions (token_digest, name, is_proxied, expires_at)
VALUES (%(digest)s, %(name)s, %(is_proxied)s, now() + make_interval(secs => %(seconds)s));

-- `is_due`: its use is to be noted, at most once a minute, and often enough for a short idle time.
-- name: read_session
SELECT u.name, u.role, u.tenants,
       s.expires_at <= now() OR s.seen_at <= now() - make_interval(secs => %(idle_seconds)s)
           OR u.disabled_at IS NOT NULL AS is_over,
       s.seen_at <= now() - make_interval(secs => least(60, %(idle_seconds)s / 4.0)) AS is_due
FROM console_sessions AS s JOIN console_users AS u ON u.name = s.name
WHERE s.token_digest = %(digest)s AND s.is_proxied = %(is_proxied)s;

-- name: note_use
UPDATE console_sessions SET seen_at = now() WHERE token_digest = %(digest)s;

-- name: end_session
DELETE FROM console_sessions WHERE token_digest = %(digest)s;

-- name: end_sessions
DELETE FROM console_sessions WHERE name = %(name)s;
