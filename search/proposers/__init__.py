"""Proposers: asked for the next candidate to try, then told its results."""
