"""The HTTP of graphs' threads: their states, their history and updates."""
