-- What a tenant may send, over all its endpoints; published with the registry. Off until somebody sets them.

ALTER TABLE tenants
    ADD COLUMN ingest_rate double precision CHECK (ingest_rate > 0 AND ingest_rate < 'infinity'),  -- events a second
    ADD COLUMN ingest_burst integer CHECK (ingest_burst > 0),
    ADD COLUMN inbox_bytes bigint CHECK (inbox_bytes > 0);

CREATE TRIGGER tenants_raise_registry_version
    AFTER UPDATE OF ingest_rate, ingest_burst, inbox_bytes ON tenants
    FOR EACH STATEMENT EXECUTE FUNCTION raise_registry_version();
