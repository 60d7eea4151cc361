"""One base model over several GPUs: ranks, their placement and their layout."""
