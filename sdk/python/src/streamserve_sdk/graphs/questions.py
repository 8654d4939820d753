"""The questions of a remote graph that a node of a local graph calls, and their answers."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from langchain_core.runnables.config import RunnableConfig

from streamserve_sdk.graphs.snapshots import StateSnapshot, interrupt
from streamserve_sdk.private_names import langgraph

_INTERRUPT = "__interrupt__"
_PART_V2 = {"type", "ns", "data"}


def in_node(config: RunnableConfig) -> bool:
    """Return True if a node of a local graph makes the call with this config."""
    return langgraph.is_task(config.get("configurable", {}))


def resumed_thread(config: RunnableConfig) -> RunnableConfig | None:
    """Return a config with the thread that may have to resume, or None if the call is no resumed node's."""
    return thread_of(config) if langgraph.is_resuming(config.get("configurable", {})) else None


def thread_of(config: RunnableConfig) -> RunnableConfig | None:
    """Return a config with the thread alone, or None if the config names none."""
    thread_id = config.get("configurable", {}).get("thread_id")
    if thread_id is None or thread_id == "":
        return None
    # Without the local graph's checkpoint, which is in the same dict.
    return {"configurable": {"thread_id": thread_id}}


def resumed(value: Any, config: RunnableConfig, state: StateSnapshot) -> Any:
    """Return the input of a node's call when the local graph resumes.

    Args:
        value: the node's input, for a thread that does not wait.
        config: the node's config.
        state: the state of the remote graph's thread.

    Raises:
        GraphInterrupt: the thread waits for an answer that the local graph did not get.
    """
    if not state.next:
        return value
    if not state.interrupts:
        return None  # a failed step or a breakpoint: the graph continues without its input
    answers = _answers([question.id for question in state.interrupts], config.get("configurable", {}))
    if answers is None:
        raise _graph_interrupt(state.interrupts)
    return _langgraph("types").Command(resume=answers)


def stop_at_breakpoint(state: StateSnapshot) -> None:
    """Interrupt the local graph if the remote graph has stopped before its end and asks nothing.

    Args:
        state: the state of the remote graph's thread after a run that did not fail.

    Raises:
        GraphInterrupt: the remote graph stopped at a breakpoint.
    """
    if state.next and not state.interrupts:
        raise _graph_interrupt(())


class Questions:
    """The questions in the output or the chunks of a remote graph, each once."""

    def __init__(self) -> None:
        self._found: dict[Any, Any] = {}

    def read(self, chunk: Any) -> None:
        """Keep the questions of a chunk in any of a graph's stream modes."""
        if isinstance(chunk, tuple) and chunk:
            chunk = chunk[-1]
        if isinstance(chunk, dict) and chunk.keys() >= _PART_V2:
            chunk = chunk["data"]
        if isinstance(chunk, dict):
            self._keep(chunk.get(_INTERRUPT))

    def read_output(self, output: Any) -> None:
        """Keep the questions of an output: a state, a `GraphOutput`, or the items of a stream mode."""
        for chunk in output if isinstance(output, list) else [output]:
            self.read(chunk)
        if not isinstance(output, dict):
            self._keep(getattr(output, "interrupts", None))

    def ask(self) -> None:
        """Interrupt the local graph if there are questions.

        Raises:
            GraphInterrupt: the remote graph asked.
        """
        if self._found:
            raise _graph_interrupt(self._found.values())

    def _keep(self, questions: Any) -> None:
        for question in map(interrupt, questions if isinstance(questions, list | tuple) else ()):
            if (name := getattr(question, "id", None)) is not None:
                self._found[name] = question


def of_output(output: Any) -> Questions:
    """Return the questions in the output of a call."""
    asked = Questions()
    asked.read_output(output)
    return asked


def _answers(ids: list[str], configurable: Mapping[str, Any]) -> Any:
    by_id = langgraph.answers_by_id(configurable)
    if by_id is not None:
        return {name: by_id[name] for name in ids if name in by_id} or None
    answer = langgraph.take_answer(configurable)
    if answer is None or len(ids) > 1:
        return answer  # the server refuses one answer to several questions
    return {ids[0]: answer}


def _graph_interrupt(questions: Iterable[Any]) -> BaseException:
    error: BaseException = _langgraph("errors").GraphInterrupt(tuple(questions))
    return error


def _langgraph(module: str) -> Any:
    return import_module(f"langgraph.{module}")
