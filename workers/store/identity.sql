-- name: read_schema
-- Of the pipeline's tables.
SELECT relnamespace AS schema FROM pg_class WHERE oid = 'deliveries'::regclass;

-- name: read_database
SELECT oid AS database FROM pg_database WHERE datname = current_database();

-- name: read_system_identifier
-- Given at initdb; the same on every replica.
SELECT system_identifier FROM pg_control_system();
