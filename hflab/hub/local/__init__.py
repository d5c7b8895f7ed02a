"""A Hub of one's own: a server that keeps repositories in a folder, for clients that set HF_ENDPOINT."""
