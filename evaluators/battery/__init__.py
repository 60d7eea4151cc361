"""What a scorecard measures of a program besides its own task."""
