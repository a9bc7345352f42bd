"""Floors: the least that a part of the work costs with the same libraries."""
