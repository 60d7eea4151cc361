"""A base model spread over ranks, with the interface of a model in one process."""
