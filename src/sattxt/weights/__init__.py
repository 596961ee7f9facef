"""Model files: which exist, where they come from, how they are read, checked and written."""
