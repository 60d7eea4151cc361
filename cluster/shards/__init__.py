"""A base model over several ranks."""
