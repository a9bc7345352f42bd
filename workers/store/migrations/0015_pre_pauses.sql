-- Pauses: of a tenant, of a handler for all tenants ('*'), or of one handler for one tenant.

ALTER TABLE tenants
    ADD COLUMN paused_by    text,                     -- while paused_at is set
    ADD COLUMN pause_reason text,
    ADD COLUMN paused_until timestamptz;              -- the sweeper ends it then; NULL: somebody must
CREATE INDEX tenants_paused ON tenants (name) WHERE paused_at IS NOT NULL;

CREATE TABLE handler_pauses (
    handler      text COLLATE "C" NOT NULL,
    tenant       text COLLATE "C" NOT NULL DEFAULT '*',
    paused_at    timestamptz NOT NULL DEFAULT now(),
    paused_by    text,
    pause_reason text,
    paused_until timestamptz,
    PRIMARY KEY (handler, tenant)
);
CREATE TRIGGER handler_pauses_audit AFTER INSERT OR UPDATE OR DELETE ON handler_pauses
    FOR EACH ROW EXECUTE FUNCTION note_change('handler', 'tenant');

CREATE VIEW pauses AS
    SELECT name AS tenant, '*' COLLATE "C" AS handler, paused_at, paused_by, pause_reason, paused_until
    FROM tenants WHERE paused_at IS NOT NULL
    UNION ALL
    SELECT tenant, handler, paused_at, paused_by, pause_reason, paused_until FROM handler_pauses;
