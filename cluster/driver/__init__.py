"""One attempt at a run: check, propose, record, decide, replay, through Ray Tune."""
