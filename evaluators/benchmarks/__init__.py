"""The tasks of the field, on their own published data."""
