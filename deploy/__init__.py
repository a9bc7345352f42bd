"""How the pipeline is run and operated; stands on all other packages, nothing imports it."""
