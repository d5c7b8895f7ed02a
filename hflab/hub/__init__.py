"""What leaves the machine: the model card and its picture, and the usage example that is executed for it."""
