"""One program run, scored, judged and proven in one process, and the rows that record it."""
