"""How an output is scored: tasks, metrics, intervals and the ledger that keeps the results."""
