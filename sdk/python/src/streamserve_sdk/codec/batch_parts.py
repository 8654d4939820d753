"""A batch in as many calls as the server's limits ask for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from langchain_core.runnables.config import RunnableConfig

from streamserve_sdk.codec.payload import Answer
from streamserve_sdk.errors import ProtocolError, ServerError


@dataclass(slots=True)
class BatchParts:
    """The inputs of a batch, part by part, and their outputs.

    Args:
        inputs: the inputs.
        configs: one config for each.
        size: the largest number of inputs of one call; 0: no limit is known.
    """

    inputs: Sequence[Any]
    configs: Sequence[RunnableConfig]
    size: int = 0
    _outputs: list[Any] = field(default_factory=list)
    _events: list[Any] = field(default_factory=list)

    def part(self) -> tuple[Sequence[Any], Sequence[RunnableConfig]] | None:
        """Return the inputs and configs of the next call, or None if all outputs are there."""
        begin = len(self._outputs)
        if begin == len(self.inputs):
            return None
        end = begin + (self.size or len(self.inputs))
        return self.inputs[begin:end], self.configs[begin:end]

    def answered(self, answer: Answer) -> None:
        """Take the answer of a call.

        Raises:
            ProtocolError: the answer does not have one output for each input.
        """
        count = self._count()
        if not isinstance(answer.output, list) or len(answer.output) != count:
            raise ProtocolError(f"a batch of {count} inputs was answered with another number of outputs")
        self._outputs += answer.output
        self._events += answer.callback_events or [None] * count

    def refused(self, error: ServerError) -> None:
        """Make the parts smaller, if the call was refused because of its size.

        Args:
            error: the server's answer.

        Raises:
            ServerError: the call has another fault.
        """
        count = self._count()
        size = largest_batch(error)
        if size is None and error.response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            size = count // 2
        if not size or size >= count:
            if count < len(self.inputs):
                error.add_note(f"at the inputs {len(self._outputs)} to {len(self._outputs) + count - 1} of the batch")
            raise error
        self.size = size

    def answer(self) -> Answer:
        """Return the answer to the whole batch."""
        return Answer(self._outputs, self._events)

    def _count(self) -> int:
        left = len(self.inputs) - len(self._outputs)
        return min(self.size or left, left)


def largest_batch(error: ServerError) -> int | None:
    """Return the largest number of inputs that a server takes, if its answer tells it.

    Args:
        error: the server's answer.
    """
    try:
        places = error.response.json()["detail"]
        limits = [place["ctx"]["max_length"] for place in places if place["loc"] == ["body", "inputs"]]
    except (KeyError, TypeError, ValueError):
        return None
    return limits[0] if limits and isinstance(limits[0], int) else None
