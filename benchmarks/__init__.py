"""Benchmarks: each compares variants in one run, prints its figures and keeps them in results.json."""
