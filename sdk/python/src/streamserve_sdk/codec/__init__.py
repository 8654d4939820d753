"""Turn values into JSON and back, and add a stream's chunks up."""
