"""Servers that the benchmarks measure: ours, the peers and a model server."""
