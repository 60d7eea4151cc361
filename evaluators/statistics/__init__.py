"""Intervals, simultaneous bounds and paired tests."""
