"""Published benchmarks as tasks, each on its own published data."""
