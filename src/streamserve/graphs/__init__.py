"""Graphs: threads, checkpoints, commands and stream modes."""
