"""A run folder: its files, its checkpoints, its result, and the network that was trained in it."""
