"""The HTTP interface of runs: read, join, cancel, threads, health and the API's description."""
