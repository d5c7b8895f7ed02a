"""Training: tasks, the loop, optimization, checkpoints and the run folder."""
