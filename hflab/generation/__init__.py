"""Text from a causal language model, piece by piece, with its state in and out."""
