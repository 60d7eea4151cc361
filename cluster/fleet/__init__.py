"""The Ray session, its nodes, and the pool of workers."""
