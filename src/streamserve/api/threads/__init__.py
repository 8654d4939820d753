"""The HTTP interface of graphs' threads: their states, history and updates."""
