"""Tasks: where records come from, and how they become questions with targets."""
