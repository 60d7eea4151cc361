"""What is tried and what it costs: sweep file, space, candidates, halving, Pareto front."""
