"""How values become JSON and blocks."""
