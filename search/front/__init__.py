"""Pareto fronts of bits against score, and the complexity at a target that they show."""
