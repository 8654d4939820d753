"""Types that accept messages in all their usual forms.

Its own class reads a typed object (`{"type": "human", ...}`, the form of dumped messages). `convert_to_messages` reads
every other form, as in LangChain and LangGraph in process, so that the result is the same message.
"""

from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin
from uuid import uuid4

from langchain_core.messages import AnyMessage, BaseMessage, RemoveMessage, convert_to_messages
from langgraph.graph import add_messages
from pydantic import PlainValidator, TypeAdapter, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from streamserve.private_names.langgraph import messages_delta_reducer

_ANY: TypeAdapter[BaseMessage] = TypeAdapter(AnyMessage)
# The classes of AnyMessage by the `type` of a dumped message.
_CLASSES: dict[str, type[BaseMessage]] = {
    option.__metadata__[0].tag: get_args(option)[0] for option in get_args(get_args(AnyMessage)[0])
}
_REMOVE = "remove"
_FORMS = "Input should be a message object, an object or pair of role and content, or a text"
_OBJECTS = "Input should be a message object, or an object of role and content"
# The function inside the partial that `add_messages(format=...)` returns.
_REDUCER: Any = add_messages
_ADD: Any = getattr(_REDUCER(format="langchain-openai"), "func", add_messages)
_REDUCERS = [reducer for reducer in (_REDUCER, messages_delta_reducer) if reducer is not None]


def is_message(annotation: Any) -> bool:
    """Return whether an annotation is a message class or a union of such classes, for example `AnyMessage`."""
    if isinstance(annotation, type):
        return issubclass(annotation, BaseMessage)
    options = get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return is_message(options[0])
    return get_origin(annotation) in (Union, UnionType) and all(map(is_message, options))


def widen(annotation: Any, *, removes: bool, only_objects: bool = False) -> Any:
    """Return the type that accepts a message in any form.

    Args:
        annotation: annotation of the accepted messages; `BaseMessage` accepts all.
        removes: whether to accept messages that remove others, which only a graph's state understands.
        only_objects: whether to refuse texts and pairs, which may be meant for another type (default false).
    """
    kinds = set(_classes_of(annotation))
    accepted = (*_CLASSES.values(), *kinds - {BaseMessage}) if BaseMessage in kinds else tuple(kinds)

    def validate(value: Any) -> BaseMessage:
        if only_objects and not isinstance(value, BaseMessage | dict):
            raise PydanticCustomError("message", _OBJECTS)
        found = read(value)
        if isinstance(found, (*accepted, RemoveMessage) if removes else accepted):
            return found
        raise PydanticCustomError("message", "{name} is not accepted here", {"name": type(found).__name__})

    return Annotated[Any, PlainValidator(validate)]


def merges_messages(metadata: Sequence[Any]) -> bool:
    """Return whether the metadata of a state's key has LangGraph's reducer of messages."""
    return any(one in _REDUCERS or getattr(one, "func", None) is _ADD for one in metadata)


def merged_messages() -> Any:
    """Return the input type of that reducer: messages in any form, or a single one.

    They get ids as from the reducer, which gives them while it holds the event loop.
    """
    one = widen(AnyMessage, removes=True)
    several: TypeAdapter[Any] = TypeAdapter(list[one])  # type: ignore[valid-type]
    single: TypeAdapter[Any] = TypeAdapter(one)

    def coerce(value: Any) -> Any:
        found = (several if isinstance(value, list) else single).validate_python(value)
        for message in found if isinstance(found, list) else (found,):
            if message.id is None:
                message.id = str(uuid4())
        return found

    return Annotated[Any, PlainValidator(coerce)]


def read(value: Any) -> BaseMessage:
    """Return the message from a value of any form.

    Raises:
        ValidationError: a part of the message is invalid; the error has its place.
        PydanticCustomError: the value is not a message.
    """
    if isinstance(value, BaseMessage):
        return value
    try:
        return _typed(value) or _converted(value)
    except (ValidationError, PydanticCustomError):
        raise
    except Exception as error:  # LangChain's own code raises KeyError, TypeError, RecursionError and others
        raise PydanticCustomError("message", "{reason}", {"reason": reason_of(error)}) from error


def reason_of(error: Exception) -> str:
    """Return an error's text as one short line."""
    if isinstance(error, RecursionError):
        return "Nested too deeply"
    if isinstance(error, KeyError):
        return f"Field required: {error}"
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__


def _typed(value: Any) -> BaseMessage | None:
    # Of the dumped messages, only those of the type `chat` have a field `role`.
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
