"""Measurements: each compares in one run, and is printed and kept in results.json."""
