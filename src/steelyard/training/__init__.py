"""Training: a step of one layout, its memory, and the run it belongs to."""
