-- name: read_facts
-- Of the session's own settings, `reset_val` is what other sessions of this role and database get.
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS version_number,
       pg_is_in_recovery() AS is_standby, current_setting('server_encoding') AS encoding,
       current_user::text AS role, current_setting('synchronous_standby_names') AS synchronous_standbys,
       (SELECT jsonb_object_agg(name, reset_val) FROM pg_settings
        WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit')) AS durability,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS most_connections,
       clock_timestamp() AS now;

-- name: missing_rights
SELECT c.relname || ': ' || string_agg(lower(p), ', ' ORDER BY p) AS missing
FROM unnest(%(tables)s::text[] || %(append_only)s::text[]) AS name
JOIN pg_class AS c ON c.oid = to_regclass(name)
CROSS JOIN unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) AS p
WHERE NOT has_table_privilege(c.oid, p)
  AND (p IN ('SELECT', 'INSERT') OR name <> ALL (%(append_only)s::text[]))
GROUP BY c.relname ORDER BY c.relname;

-- name: excess_rights
-- What a role may change beyond what handlers need, which is nothing.
SELECT c.relname::text AS name
FROM unnest(%(tables)s::text[]) AS name JOIN pg_class AS c ON c.oid = to_regclass(name)
WHERE has_table_privilege(%(role)s, c.oid, 'INSERT,UPDATE,DELETE,TRUNCATE')
ORDER BY c.relname;

-- name: may_make_days
SELECT pg_has_role(c.relowner, 'USAGE') AND has_schema_privilege(c.relnamespace, 'CREATE') AS may
FROM pg_class AS c WHERE c.oid = 'events'::regclass;

-- name: replicas
-- Without the right to see more, a replica's place is NULL.
SELECT coalesce(nullif(application_name, ''), client_addr::text, 'a replica') AS name, sync_state,
       pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::float8 AS behind_bytes
FROM pg_stat_replication ORDER BY name;

-- name: idle_slots
SELECT slot_name::text AS name, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::float8 AS kept_bytes
FROM pg_replication_slots WHERE NOT active AND restart_lsn IS NOT NULL ORDER BY slot_name;

-- name: open_handlers
-- Each handler once, however many deliveries it has, by steps through the index of lanes; and those of 20,000 that wait or run.
WITH RECURSIVE lane AS (
    (SELECT tenant, handler FROM deliveries WHERE ready ORDER BY tenant, handler LIMIT 1)
    UNION ALL
    SELECT next.tenant, next.handler FROM lane CROSS JOIN LATERAL (
        SELECT tenant, handler FROM deliveries WHERE ready AND (tenant, handler) > (lane.tenant, lane.handler)
        ORDER BY tenant, handler LIMIT 1
    ) AS next
)
SELECT DISTINCT handler FROM (
    SELECT handler FROM lane
    UNION ALL (SELECT handler FROM deliveries WHERE NOT ready LIMIT 20000)
) AS found ORDER BY handler;
