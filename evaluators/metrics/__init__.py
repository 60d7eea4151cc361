"""Scoring rules: an output and its example in, a score from 0 to 1 out."""
