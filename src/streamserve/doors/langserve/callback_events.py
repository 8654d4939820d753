"""The callbacks of a call's steps, if the record shows them: clients replay them below their own run."""

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langserve.callbacks import AsyncEventAggregatorCallback

from streamserve.call import Call
from streamserve.errors.failures import explain
from streamserve.serving.served import ServedRunnable
from streamserve.wire.serializer import known_line


def watch(served: ServedRunnable, configs: Sequence[RunnableConfig]) -> list[AsyncEventAggregatorCallback]:
    """Add a collector of callbacks to each config, and return the collectors; none if the record shows no callbacks."""
    if not served.served.chain.callback_events:
        return []
    collectors = [AsyncEventAggregatorCallback() for _ in configs]
    for config, collector in zip(configs, collectors, strict=True):
        config["callbacks"] = [collector]
    return collectors


def line_of(collector: AsyncEventAggregatorCallback, call: Call) -> bytes:
    """Return the collected callbacks as JSON: null stands for a value that has no JSON form."""
    return known_line([_event(event, call) for event in collector.callback_events])


def _event(event: Mapping[str, Any], call: Call) -> dict[str, Any]:
    shown = {"metadata": None, **event}
    if isinstance(error := shown.get("error"), BaseException):
        shown["error"] = explain(error, call).event(call.run_id)
    return shown
