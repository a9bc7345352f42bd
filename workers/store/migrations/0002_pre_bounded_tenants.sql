-- Tenants that admission must ask about: they are few, and a look for one that is not here costs next to nothing.
CREATE INDEX tenants_bounded ON tenants (name) WHERE paused_at IS NOT NULL OR max_in_flight IS NOT NULL;
