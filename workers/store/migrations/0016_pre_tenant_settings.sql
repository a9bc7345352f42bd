-- What handlers are told about a tenant, a JSON object; read with each claim.
ALTER TABLE tenants
    ADD COLUMN settings jsonb NOT NULL DEFAULT '{}'
        CONSTRAINT settings_object CHECK (jsonb_typeof(settings) = 'object')
        CONSTRAINT settings_size CHECK (octet_length(settings::text) <= 16384);
CREATE INDEX tenants_with_settings ON tenants (name) WHERE settings <> '{}';
