"""Private names of dependencies, one module per dependency, each with what happens when a name is gone.

Each name is looked up, never imported: a rename upstream may cost speed or one feature, but never an ImportError.
"""
