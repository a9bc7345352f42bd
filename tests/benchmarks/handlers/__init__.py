"""Handlers of the benchmarks, a module for each run."""
