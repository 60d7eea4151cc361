"""What the command report reads: from results to the values that a report shows."""
