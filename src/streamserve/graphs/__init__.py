"""What only graphs have: threads, checkpoints, commands and stream modes."""
