"""Many candidates in one pass over their base model."""
