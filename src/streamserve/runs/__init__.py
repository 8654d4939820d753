"""Runs: one execution of a chain for one request, its blocks, its readers and its end, without HTTP."""
