"""Where runs are kept."""

from streamserve.stores.base import Fenced, Gap, Outcome, RunRecord, RunStore, Status
from streamserve.stores.memory import MemoryStore

__all__ = ["Fenced", "Gap", "MemoryStore", "Outcome", "RunRecord", "RunStore", "Status"]
