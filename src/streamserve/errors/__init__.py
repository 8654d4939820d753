"""Errors of the server and their form for callers."""

from streamserve.errors.tree import *  # noqa: F403 - the tree's own `__all__` lists each name once
