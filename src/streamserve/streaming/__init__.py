"""Runs and their streams."""
