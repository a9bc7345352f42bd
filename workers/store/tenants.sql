-- name: add_tenant
INSERT INTO tenants (name, max_in_flight) VALUES (%(name)s, %(max_in_flight)s) ON CONFLICT DO NOTHING RETURNING name;

-- Names are compared by their bytes: what begins with a prefix is below the prefix with the last of all characters.
-- name: list_tenants
SELECT name, max_in_flight, weight, ingest_rate, ingest_burst, inbox_bytes, paused_at, paused_by, pause_reason,
       paused_until, settings, created_at
FROM tenants
WHERE (name = %(name)s OR %(name)s::text IS NULL)
  AND (%(prefix)s::text IS NULL OR (name >= %(prefix)s AND name < %(prefix)s || chr(1114111)))
  AND (%(after)s::text IS NULL OR name > %(after)s)
ORDER BY name LIMIT %(most)s;

-- name: limit_tenant
UPDATE tenants SET max_in_flight = %(max_in_flight)s WHERE name = %(name)s RETURNING name;

-- name: weigh_tenant
UPDATE tenants SET weight = %(weight)s WHERE name = %(name)s RETURNING name;

-- name: limit_ingest
UPDATE tenants SET ingest_rate = %(rate)s, ingest_burst = %(burst)s, inbox_bytes = %(inbox_bytes)s
WHERE name = %(name)s RETURNING name;

-- name: set_settings
UPDATE tenants SET settings = (settings || %(values)s) - %(unset)s::text[] WHERE name = %(name)s RETURNING name;

-- name: add_endpoint
INSERT INTO endpoints (tenant, provider, scheme) VALUES (%(tenant)s, %(provider)s, %(scheme)s)
ON CONFLICT DO NOTHING RETURNING tenant;

-- name: enable_endpoint
UPDATE endpoints SET enabled = %(enabled)s WHERE tenant = %(tenant)s AND provider = %(provider)s RETURNING tenant;

-- name: change_scheme
UPDATE endpoints SET scheme = %(scheme)s WHERE tenant = %(tenant)s AND provider = %(provider)s RETURNING tenant;

-- name: list_endpoints
SELECT e.tenant, e.provider, e.scheme, e.enabled, e.created_at,
       coalesce(array_agg(s.label ORDER BY s.created_at, s.label)
                FILTER (WHERE s.expires_at IS NULL OR s.expires_at > now()), '{}') AS labels
FROM (
    SELECT tenant, provider, scheme, enabled, created_at FROM endpoints
    WHERE (tenant = %(tenant)s OR %(tenant)s::text IS NULL)
      AND (%(prefix)s::text IS NULL OR (tenant >= %(prefix)s AND tenant < %(prefix)s || chr(1114111)))
      AND (%(after_tenant)s::text IS NULL OR (tenant, provider) > (%(after_tenant)s, %(after_provider)s))
    ORDER BY tenant, provider LIMIT %(most)s
) AS e
LEFT JOIN endpoint_secrets s USING (tenant, provider)
GROUP BY e.tenant, e.provider, e.scheme, e.enabled, e.created_at
ORDER BY e.tenant, e.provider;

-- name: find_endpoints
SELECT e.tenant, e.provider, e.enabled, e.scheme, t.ingest_rate, t.ingest_burst, t.inbox_bytes,
       coalesce(array_agg(s.label ORDER BY s.created_at, s.label) FILTER (WHERE s.label IS NOT NULL), '{}') AS labels,
       array_agg(s.ciphertext ORDER BY s.created_at, s.label) FILTER (WHERE s.label IS NOT NULL) AS ciphertexts,
       array_agg(s.expires_at ORDER BY s.created_at, s.label) FILTER (WHERE s.label IS NOT NULL) AS expiries
FROM unnest(%(tenants)s::text[], %(providers)s::text[]) AS it(tenant, provider)
JOIN endpoints e ON e.tenant = it.tenant AND e.provider = it.provider
JOIN tenants t ON t.name = e.tenant
LEFT JOIN endpoint_secrets s ON s.tenant = e.tenant AND s.provider = e.provider
GROUP BY e.tenant, e.provider, t.name
ORDER BY e.tenant, e.provider;

-- name: add_secret
INSERT INTO endpoint_secrets (tenant, provider, label, ciphertext)
VALUES (%(tenant)s, %(provider)s, %(label)s, %(ciphertext)s)
ON CONFLICT DO NOTHING RETURNING label;

-- name: list_secrets
SELECT tenant, provider, label, created_at, expires_at
FROM endpoint_secrets
WHERE tenant = %(tenant)s AND (provider = %(provider)s OR %(provider)s::text IS NULL)
ORDER BY provider, created_at, label;

-- name: expire_secret
UPDATE endpoint_secrets SET expires_at = %(at)s
WHERE tenant = %(tenant)s AND provider = %(provider)s AND label = %(label)s
RETURNING label;

-- name: replace_ciphertexts
UPDATE endpoint_secrets AS s SET ciphertext = new.ciphertext
FROM unnest(%(tenants)s::text[], %(providers)s::text[], %(labels)s::text[], %(before)s::bytea[], %(after)s::bytea[])
    AS new (tenant, provider, label, was, ciphertext)
WHERE (s.tenant, s.provider, s.label) = (new.tenant, new.provider, new.label) AND s.ciphertext = new.was
RETURNING s.label;

-- name: registry_version
SELECT version FROM registry_version;

-- name: overtake
UPDATE registry_version SET version = %(held)s + 1 WHERE version < %(held)s;

-- name: read_registry
-- One statement, one snapshot: the version belongs to exactly these endpoints. Without any, one row of NULLs.
SELECT v.version, e.tenant, e.provider, e.enabled, e.scheme, s.labels, s.ciphertexts, s.expiries,
       t.ingest_rate, t.ingest_burst, t.inbox_bytes
FROM registry_version v
LEFT JOIN endpoints e ON true
LEFT JOIN tenants t ON t.name = e.tenant
LEFT JOIN (
    SELECT tenant, provider,
           array_agg(label ORDER BY created_at, label) AS labels,
           array_agg(ciphertext ORDER BY created_at, label) AS ciphertexts,
           array_agg(expires_at ORDER BY created_at, label) AS expiries
    FROM endpoint_secrets
    GROUP BY tenant, provider
) s USING (tenant, provider);
