"""The callbacks of a server are replayed below the local run."""

from uuid import UUID, uuid4

from langchain_core.callbacks import BaseCallbackHandler
from streamserve_sdk.events.callbacks import replay


class Parents(BaseCallbackHandler):
    def __init__(self):
        self.calls = []

    def on_chain_start(self, serialized, inputs, *, run_id, parent_run_id=None, **kwargs):
        self.calls.append((run_id, parent_run_id))


def test_remote_runs_get_fresh_ids_below_the_local_run():
    root, child, local = str(uuid4()), str(uuid4()), uuid4()
    start = {"type": "on_chain_start", "serialized": None, "inputs": {}}
    handler = Parents()
    events = [{**start, "run_id": root, "parent_run_id": None}, {**start, "run_id": child, "parent_run_id": root}]
    replay([handler], local, events)
    (first, above), (second, between) = handler.calls
    assert (above, between) == (local, first)
    assert {first, second}.isdisjoint({UUID(root), UUID(child)})
