"""What is tried and what it costs: sweep file, candidates, proposers, schedulers, front."""
