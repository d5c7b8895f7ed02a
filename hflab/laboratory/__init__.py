"""What models can do and how they compare, measured: memory, gradients, comparisons."""
