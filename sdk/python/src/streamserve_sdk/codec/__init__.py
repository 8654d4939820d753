"""Turn values into JSON and back, and the chunks of a stream into one output."""
