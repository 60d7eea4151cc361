"""One worker: a resident base model that trains, scores and records rungs."""
