"""Tasks of the field on their published data."""
