"""Schedulers: which candidates are promoted to the next rung, and which are stopped."""
