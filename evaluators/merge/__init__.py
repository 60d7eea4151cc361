"""Many ledgers, and points that others published, as one data set."""
