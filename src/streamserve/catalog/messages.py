"""Messages in all their usual forms: a type with messages in it becomes one that takes each form of a message.

A typed object (`{"type": "human", ...}`, as messages are dumped) is read by its own class; every other form by
`convert_to_messages`, as LangChain and LangGraph read it in process, so that the same message comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from langchain_core.messages import AnyMessage, BaseMessage, RemoveMessage, convert_to_messages
from langgraph.graph import add_messages
from pydantic import PlainValidator, TypeAdapter, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from streamserve.private_names.langgraph import messages_delta_reducer

_ANY: TypeAdapter[BaseMessage] = TypeAdapter(AnyMessage)
# The classes of AnyMessage, by what a dumped message has as its `type`.
_CLASSES: dict[str, type[BaseMessage]] = {
    option.__metadata__[0].tag: get_args(option)[0] for option in get_args(get_args(AnyMessage)[0])
}
_REMOVE = "remove"
_FORMS = "Input should be a message object, an object or pair of role and content, or a text"
# What `add_messages(format=...)` is a partial of.
_REDUCER: Any = add_messages
_ADD: Any = getattr(_REDUCER(format="langchain-openai"), "func", add_messages)
_REDUCERS = [reducer for reducer in (_REDUCER, messages_delta_reducer) if reducer is not None]


def is_message(annotation: Any) -> bool:
    """Whether an annotation is a message class, or a union of them such as `AnyMessage`."""
    if isinstance(annotation, type):
        return issubclass(annotation, BaseMessage)
    options = get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return is_message(options[0])
    return get_origin(annotation) in (Union, UnionType) and all(map(is_message, options))


def widened(annotation: Any, *, removes: bool) -> Any:
    """The type that takes a message in any form.

    Args:
        annotation: of the messages that are taken; `BaseMessage` stands for all.
        removes: whether a message may ask to remove another, which only a graph's state understands.
    """
    kinds = set(_classes_of(annotation))
    taken = (*_CLASSES.values(), *kinds - {BaseMessage}) if BaseMessage in kinds else tuple(kinds)

    def take(value: Any) -> BaseMessage:
        found = read(value)
        if isinstance(found, (*taken, RemoveMessage) if removes else taken):
            return found
        raise PydanticCustomError("message", "{name} is not taken here", {"name": type(found).__name__})

    return Annotated[Any, PlainValidator(take)]


def merges_messages(metadata: Sequence[Any]) -> bool:
    """Whether what annotates a state's key has LangGraph's reducer of messages."""
    return any(one in _REDUCERS or getattr(one, "func", None) is _ADD for one in metadata)


def merged() -> Any:
    """The type of what that reducer takes: messages in any form, or one of them."""
    one = widened(AnyMessage, removes=True)
    several: TypeAdapter[Any] = TypeAdapter(list[one])  # type: ignore[valid-type]
    single: TypeAdapter[Any] = TypeAdapter(one)

    def coerce(value: Any) -> Any:
        return (several if isinstance(value, list) else single).validate_python(value)

    return Annotated[Any, PlainValidator(coerce)]


def read(value: Any) -> BaseMessage:
    """The message that a value of any form stands for.

    Raises:
        ValidationError: a part of it does not fit, with its place.
        PydanticCustomError: it is no message.
    """
    if isinstance(value, BaseMessage):
        return value
    try:
        return _typed(value) or _converted(value)
    except (ValidationError, PydanticCustomError):
        raise
    except Exception as error:  # LangChain's own code raises KeyError, TypeError, RecursionError and more
        raise PydanticCustomError("message", "{reason}", {"reason": reason_of(error)}) from error


def reason_of(error: Exception) -> str:
    """What an error says, in one short line."""
    if isinstance(error, RecursionError):
        return "Nested too deeply"
    if isinstance(error, KeyError):
        return f"Field required: {error}"
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__


def _typed(value: Any) -> BaseMessage | None:
    # `role` is a field of a dumped message of the type `chat` only.
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == _REMOVE:
        return RemoveMessage.model_validate(value)
    is_known = isinstance(kind, str) and kind in _CLASSES and (kind == "chat" or "role" not in value)
    return _ANY.validate_python(value) if is_known else None


def _converted(value: Any) -> BaseMessage:
    if isinstance(value, dict):
        _require_fields(value)
    elif not isinstance(value, str) and not (isinstance(value, list | tuple) and len(value) == 2):
        raise PydanticCustomError("message", _FORMS)
    (found,) = convert_to_messages([value])
    return found


def _require_fields(value: dict[str, Any]) -> None:
    missing = {"content"} - set(value) if value.get("lc") != 1 else set()
    if not {"role", "type"} & set(value):
        missing.add("role")
    errors = [InitErrorDetails(type="missing", loc=(name,), input=value) for name in sorted(missing)]
    if errors:
        raise ValidationError.from_exception_data("message", errors)


def _classes_of(annotation: Any) -> list[type[BaseMessage]]:
    if isinstance(annotation, type):
        return [annotation]
    return [kind for option in get_args(annotation) if is_message(option) for kind in _classes_of(option)]
