"""From a model and held-out data to figures: what the figures mean (metrics) and how they come about (evaluator)."""
