"""Handlers that ship with the pipeline; a team writes its own in a package of its own."""
