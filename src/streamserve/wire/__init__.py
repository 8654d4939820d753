"""Encoding of values as JSON and blocks."""
