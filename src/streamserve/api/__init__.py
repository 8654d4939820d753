"""The HTTP of runs themselves: read, join, cancel, threads, health and the API's description."""
