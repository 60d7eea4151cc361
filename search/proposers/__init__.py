"""Proposers: which candidate is tried next."""
