"""Forward-only migrations, applied by `workers.store.migrate`."""
