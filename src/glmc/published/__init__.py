"""The published command lines, flags and checkpoint files. Nothing else leans on this wing."""
