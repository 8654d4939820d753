"""Streams of chains with less work per chunk: the same chunks, runs and errors."""
