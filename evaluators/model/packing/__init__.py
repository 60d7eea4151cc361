"""Many candidates with their own adapters in common passes through one base model."""
