"""Chains for replicas that are restarted."""
