"""Speech: reading, cutting and making recordings, and from a recogniser's outputs to words."""
