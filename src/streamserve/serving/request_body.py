"""The shape of a request's body, and the places of its errors."""

from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import Any, NotRequired, Required, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from typing_extensions import get_type_hints, is_typeddict

from streamserve.errors import InvalidInput
from streamserve.errors.places import MAX_PLACES, Place, entry, invalid


def check_shape(body: Any, required: str | None, max_batch: int | None = None) -> dict[str, Any]:
    """Return the body if it is an object whose outer fields have the right types; `config: null` counts as absent.

    Args:
        required: the field that must be present: "input", "inputs" or None.
        max_batch: the maximum number of inputs; default: no maximum.

    Raises:
        InvalidInput: the body does not fit; with the place.
    """
    if not isinstance(body, dict):
        raise invalid(("body",), "Input should be an object", "dict_type")
    if required and required not in body:
        raise invalid(("body", required), "Field required", "missing")
    if required == "inputs" and not isinstance(body["inputs"], list):
        raise invalid(("body", "inputs"), "Input should be a list", "list_type")
    if required == "inputs" and max_batch is not None and len(body["inputs"]) > max_batch:
        found = entry(("body", "inputs"), f"More than {max_batch} inputs", "too_long")
        raise InvalidInput([{**found, "ctx": {"max_length": max_batch}}])
    if body.get("config", ...) is None:
        del body["config"]
    _check_config(body.get("config", {}), in_batch=required == "inputs")
    return body


def _check_config(config: Any, in_batch: bool) -> None:
    if isinstance(config, list) and in_batch:
        for index, item in enumerate(config):
            if not isinstance(item, dict):
                raise invalid(("body", "config", index), "Input should be an object", "dict_type")
    elif not isinstance(config, dict):
        raise invalid(("body", "config"), "Input should be an object", "dict_type")


def read_kwargs(body: Mapping[str, Any], allowed: Collection[str]) -> dict[str, Any]:
    """Return the keyword arguments for the runnable.

    Raises:
        InvalidInput: the chain does not take an argument.
    """
    kwargs = body.get("kwargs") or {}
    if not isinstance(kwargs, dict):
        raise invalid(("body", "kwargs"), "Input should be an object", "dict_type")
    for name in kwargs:
        if name not in allowed:
            raise invalid(("body", "kwargs", name), "This chain does not take this argument", "extra_forbidden")
    if not isinstance(kwargs.get("return_exceptions", False), bool):
        raise invalid(("body", "kwargs", "return_exceptions"), "Input should be a valid boolean", "bool_type")
    return kwargs


def locate(body: dict[str, Any], schema: type[BaseModel], config: type[BaseModel]) -> InvalidInput | None:
    """Return an error with the first places that do not fit, or None if the whole body fits."""
    found = (error for place, value, model in _parts(body, schema, config) for error in _errors_of(place, value, model))
    errors = list(islice(found, MAX_PLACES))
    return InvalidInput(errors) if errors else None


def _parts(
    body: dict[str, Any], schema: type[BaseModel], config: type[BaseModel]
) -> Iterator[tuple[Place, Any, type[BaseModel]]]:
    configs = body.get("config", {})
    for index, item in enumerate(configs) if isinstance(configs, list) else [(None, configs)]:
        yield ("body", "config", *(() if index is None else (index,))), item, config
    if "input" in body:
        yield ("body", "input"), body["input"], schema
    for index, item in enumerate(body.get("inputs") or ()):
        yield ("body", "inputs", index), item, schema


def _errors_of(place: Place, value: Any, model: type[BaseModel]) -> list[dict[str, Any]]:
    try:
        model.model_validate(value)
    except ValidationError as error:
        return [
            entry((*place, *item["loc"]), item["msg"], item["type"])
            for item in islice(error.errors(include_url=False, include_context=False, include_input=False), MAX_PLACES)
        ]
    except Exception as error:  # LangChain's own validators raise KeyError, TypeError and more
        deeper = _descend(place, value, model)
        return [entry(deeper, _text(error), "value_error")]
    return []


def _descend(place: Place, value: Any, model: type[BaseModel]) -> Place:
    # An unknown message type raises without a place: check field by field, item by item.
    for name, annotation in _fields(getattr(model, "state", model)).items():
        inner = value.get(name) if isinstance(value, dict) else None
        check = _validator(annotation)
        if inner is not None and not _fits(check, inner):
            return (*place, name, *_bad_item(check, inner))
    return place


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    root = model.model_fields.get("root")
    if root is not None:  # a graph's state is a TypedDict in a root model
        return get_type_hints(root.annotation, include_extras=True) if is_typeddict(root.annotation) else {}
    return {name: info.rebuild_annotation() for name, info in model.model_fields.items()}


def _validator(annotation: Any) -> Callable[[Any], Any]:
    while get_origin(annotation) in (Required, NotRequired):
        (annotation,) = get_args(annotation)
    return TypeAdapter(annotation).validate_python


def _bad_item(check: Callable[[Any], Any], value: Any) -> Place:
    items = value if isinstance(value, list) else []
    return next(((index,) for index, item in enumerate(items) if not _fits(check, [item])), ())


def _fits(check: Callable[[Any], Any], value: Any) -> bool:
    try:
        check(value)
    except Exception:
        return False
    return True


def _text(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "Nested too deeply"
    if isinstance(error, KeyError):
        return f"Field required: {error}"
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
