"""Private names of dependencies, one module per dependency, each with what happens when a name is gone.

Each name is looked up, never imported: a rename upstream may cost speed or one feature, but never an ImportError.
"""

from importlib import import_module
from typing import Any


def find(module: str, name: str) -> Any:
    """Return what a module has under a name with dots for attributes, or None if the module or the name is gone."""
    try:
        found: Any = import_module(module)
    except ImportError:
        return None
    for part in name.split("."):
        found = getattr(found, part, None)
    return found
