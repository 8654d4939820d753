"""Commands in their JSON form: `{"__type__": "command", "resume": ..., "update": ..., "goto": ...}`."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from langgraph.constants import END, START
from langgraph.types import Command, Send
from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from streamserve.graphs.graph import Graph
from streamserve.graphs.state_parser import StateParser, placed

# Maximum writes of one step, values of a command for one key, and targets of a command: LangGraph calls a reducer for
# each write with the whole state, for a command on a new thread twice, and makes a task for each target, all at once.
MAX_WRITES, MAX_VALUES, MAX_TARGETS = 20, 5, 50
FIELDS = ("graph", "update", "resume", "goto")
_GOTO = "Input should be the name of a node, {'node': name, 'arg': input} or a list of these"


def is_command(value: Any, graph: Graph) -> bool:
    """Return True if an input is a command: by its `__type__`, or by its fields, as langserve's client dumps it."""
    if not isinstance(value, dict):
        return False
    return value.get("__type__") == "command" or (value.keys() == set(FIELDS) and not set(FIELDS) & set(graph.channels))


class Commands:
    """The parser of one graph's commands."""

    def __init__(self, graph: Graph, values: StateParser) -> None:
        self._nodes = {*graph.nodes, END} - {START}
        self._values = values

    def read(self, value: Mapping[str, Any]) -> Command[Any]:
        """Return the command.

        Raises:
            ValidationError: A field does not fit; the error names its place.
        """
        for name in set(value) - {"__type__", *FIELDS}:
            raise _misfit(value[name], "A command has resume, update and goto", name)
        if value.get("graph") is not None:
            raise _misfit(value["graph"], "A command from outside is for the graph itself", "graph")
        made = Command(resume=value.get("resume"), update=self._update(value), goto=self._goto(value))
        if made.resume is None and not made.update and not made.goto:
            raise _misfit(value, "A command needs resume, update or goto")
        return made

    def _update(self, command: Mapping[str, Any]) -> Any:
        update = command.get("update")
        try:
            if isinstance(update, Mapping):
                return dict(self._values.read_update(update.items()))
            if isinstance(update, list | tuple) and all(map(_is_pair, update)):
                _require_few_of_each(update)
                return self._values.read_update((name, item) for name, item in update)
        except ValidationError as error:
            raise ValidationError.from_exception_data("command", placed(error, "update")) from error
        if update is not None:
            raise _misfit(update, "Input should be an object or a list of pairs", "update")
        return None

    def _goto(self, command: Mapping[str, Any]) -> list[str | Send]:
        goto = command.get("goto") or []
        if not isinstance(goto, list | tuple):
            return [self._target(goto, "goto")]
        _require_few(goto, MAX_TARGETS, "goto")
        return [self._target(target, "goto", index) for index, target in enumerate(goto)]

    def _target(self, target: Any, *place: str | int) -> str | Send:
        if isinstance(target, dict) and target.keys() == {"node", "arg"}:
            target = Send(**target)
        name = target.node if isinstance(target, Send) else target
        if not isinstance(target, str | Send) or not isinstance(name, str):
            raise _misfit(target, _GOTO, *place)
        if name not in self._nodes:
            raise _misfit(target, f"The graph has no node {name!r}", *place)
        return target


def _is_pair(item: Any) -> bool:
    return isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str)


def _require_few(values: list[Any] | tuple[Any, ...], most: int, *place: str) -> None:
    if len(values) > most:
        raise _misfit(len(values), f"More than {most} items", *place)


def _require_few_of_each(pairs: Iterable[tuple[str, Any]]) -> None:
    most = max(Counter(name for name, _ in pairs).values(), default=0)
    if most > MAX_VALUES:
        raise _misfit(most, f"More than {MAX_VALUES} values for one key")


def _misfit(value: Any, reason: str, *place: str | int) -> ValidationError:
    error = PydanticCustomError("command", "{reason}", {"reason": reason})
    return ValidationError.from_exception_data("command", [InitErrorDetails(type=error, loc=place, input=value)])
