"""Give the events and callbacks of a remote chain the form that local ones have."""
