"""The stream of a chain with less work per chunk, with the same chunks, runs and errors."""
