"""Launchers: batch systems that run a sweep instead of this machine, and their profiles."""
