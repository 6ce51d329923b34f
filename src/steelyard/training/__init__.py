"""Training: the step of a layout, its memory, the schedule of its pipeline, and the run with its failures."""
