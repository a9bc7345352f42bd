-- Who may do what with the tables and functions.

-- name: schema
SELECT relnamespace::regnamespace::text AS name FROM pg_class WHERE oid = 'events'::regclass;

-- Roles that may write events, and those that may only record a success; not the owner, who may do anything.
-- name: list_roles
SELECT r.rolname::text AS role, bool_or(given.writes) AS writes
FROM (
    SELECT acl.grantee, true AS writes FROM pg_class, aclexplode(relacl) AS acl
    WHERE oid = 'events'::regclass AND acl.privilege_type = 'INSERT' AND acl.grantee <> relowner
    UNION ALL
    SELECT acl.grantee, false FROM pg_proc, aclexplode(proacl) AS acl
    WHERE oid = to_regproc('record_success') AND acl.grantee <> proowner
) AS given JOIN pg_roles AS r ON r.oid = given.grantee
GROUP BY r.rolname ORDER BY r.rolname;
