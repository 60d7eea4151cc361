"""The search for short programs: sweep file, candidates, proposers, schedulers, Pareto front."""
