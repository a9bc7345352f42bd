"""Mutants of code that carries a guarantee, and whether the tests notice: `python -m tests.mutation --help`."""
