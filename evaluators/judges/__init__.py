"""Judges that compare two answers, and the statistics of their verdicts."""
