"""langgraph: the reducer of message deltas and the default limit of steps.

Without the reducer, a state's key that has it takes messages in the form of their dump only. Without the limit, it is
the one of langgraph 1.2.
"""

import os
from typing import Any

from streamserve.private_names import find

# The reducer of messages that a `DeltaChannel` has, or None.
messages_delta_reducer: Any = find("langgraph.graph.message", "_messages_delta_reducer")
# Steps of a graph's run, if neither the graph nor the request has a limit.
RECURSION_LIMIT: int = find("langgraph._internal._config", "DEFAULT_RECURSION_LIMIT") or int(
    os.environ.get("LANGGRAPH_DEFAULT_RECURSION_LIMIT", "10007")
)
