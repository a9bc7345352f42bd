"""The benchmarks: floors, a peer and ours in alternation; see `__main__`."""
