"""Python's garbage collector, kept from stopping every stream at once."""

from __future__ import annotations

import gc
import threading


def collect_what_is_new(threshold: int) -> None:
    """Leaves out from here on what was loaded, and sets how often the rest is looked through.

    What was loaded stays: with it, the longest gap in streams is five times as long. Once per process; a server in a
    thread of another program leaves that program's collector alone.

    Args:
        threshold: objects made between two rounds; 0: none.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
    gc.set_threshold(threshold, *gc.get_threshold()[1:])
    gc.enable()  # the command line loads without it
