"""A frozen base model and what is put on it: load, generate, train, code."""
