-- name: read_place
-- The database, and the schema of the pipeline's tables.
SELECT d.oid AS database, c.relnamespace AS schema
FROM pg_database AS d, pg_class AS c
WHERE d.datname = current_database() AND c.oid = 'deliveries'::regclass;

-- name: read_system_identifier
-- Given at initdb; the same on every replica.
SELECT system_identifier FROM pg_control_system();
