"""The callbacks of a server are replayed below the local run."""

from uuid import UUID, uuid4

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage
from streamserve_sdk.events.callbacks import areplay, replay


class Prompts(BaseCallbackHandler):
    """A handler without a method for chat models."""

    def __init__(self):
        self.seen = []

    def on_llm_start(self, serialized, prompts, **kwargs):
        self.seen += prompts


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


CHAT = {"type": "on_chat_model_start", "serialized": None, "messages": [[HumanMessage("Hi").model_dump()]]}


async def test_a_handler_without_chat_models_sees_their_prompts():
    handler = Prompts()
    replay([handler], uuid4(), [{**CHAT, "run_id": "1"}])
    await areplay([handler], uuid4(), [{**CHAT, "run_id": "1"}])
    assert handler.seen == ["Human: Hi"] * 2
