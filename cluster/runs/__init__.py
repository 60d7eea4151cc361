"""A run on disk or on a store: folder, lock, log, progress, front, sealed split."""
