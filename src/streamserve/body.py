"""The body of a request to a chain: parsed once, its shape checked, and the place of what does not fit found."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NotRequired, ParamSpec, Required, TypeVar, get_args, get_origin

import orjson
from fastapi import Request
from pydantic import BaseModel, TypeAdapter, ValidationError
from typing_extensions import get_type_hints, is_typeddict

from streamserve.errors import InvalidInput
from streamserve.json_bounds import passed_bound
from streamserve.settings import Settings

Place = tuple[str | int, ...]
P = ParamSpec("P")
T = TypeVar("T")

# Bytes of a body from which on other streams would feel its parsing.
LARGE = 32 * 2**10
# More places help nobody.
MAX_PLACES = 100
# Threads of their own: those of the chains may all be taken.
_parsers = ThreadPoolExecutor(2, thread_name_prefix="parse")


class ChainRequest(Request):
    """A request whose body is read by a parser that no input can break."""

    async def json(self) -> Any:
        """The parsed body.

        Raises:
            InvalidInput: it is not JSON, or has more than it may.
        """
        if not hasattr(self, "_json"):
            body, settings = await self.body(), self.app.state.runs.settings
            self._json = await aside(body, parse_bounded, body, settings)
        return self._json

    async def fingerprint(self) -> str:
        """What tells its body from one that says something else, however it is written."""
        body = await self.body()
        return await aside(body, _digest, body)


async def aside(body: bytes, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Does work with a body, in a thread if the body is large."""
    if len(body) < LARGE:
        return work(*args, **kwargs)
    return await asyncio.wrap_future(_parsers.submit(work, *args, **kwargs))


def _digest(body: bytes) -> str:
    return hashlib.sha256(orjson.dumps(parse(body), option=orjson.OPT_SORT_KEYS)).hexdigest()


def parse_bounded(body: bytes, settings: Settings) -> Any:
    """JSON to Python, unless it is too deep or has too many values. Of duplicate keys, the last counts.

    Raises:
        InvalidInput: it is, or no JSON.
    """
    passed = passed_bound(body, settings.max_json_depth, settings.max_json_items)
    if passed == "depth":
        raise invalid(("body",), f"More than {settings.max_json_depth} levels of nesting", "too_deep")
    if passed == "items":
        raise invalid(("body",), f"More than {settings.max_json_items} values", "too_long")
    return parse(body)


def parse(body: bytes) -> Any:
    """JSON to Python.

    Raises:
        InvalidInput: no JSON, bad UTF-8, or nested too deeply.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(("body", error.pos), f"Invalid JSON: {error.msg}", "json_invalid") from error


def invalid(place: Place, message: str, kind: str) -> InvalidInput:
    """The error for one place of the input."""
    return InvalidInput([entry(place, message, kind)])


def check_shape(body: Any, required: str | None, max_batch: int | None = None) -> dict[str, Any]:
    """The body as an object whose outer fields have the right types; `config: null` counts as absent.

    Args:
        body: what was parsed.
        required: the field that must be there: "input", "inputs" or None.
        max_batch: inputs at most.

    Raises:
        InvalidInput: with the place.
    """
    if not isinstance(body, dict):
        raise invalid(("body",), "Input should be an object", "dict_type")
    if required and required not in body:
        raise invalid(("body", required), "Field required", "missing")
    if required == "inputs" and not isinstance(body["inputs"], list):
        raise invalid(("body", "inputs"), "Input should be a list", "list_type")
    if required == "inputs" and max_batch is not None and len(body["inputs"]) > max_batch:
        raise invalid(("body", "inputs"), f"More than {max_batch} inputs", "too_long")
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
    """The keyword arguments for the runnable, all of them allowed.

    Raises:
        InvalidInput: an argument that this chain does not take; it is never ignored.
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
    """Where a body does not fit, looked up only once something failed.

    Args:
        body: an object with the right outer shape.
        schema: of one input.
        config: of one config.

    Returns:
        The error with the first places, or None if everything fits.
    """
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
    # Discriminators of message types raise where pydantic cannot say the place: try field by field, item by item.
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


def entry(place: Place, message: str, kind: str) -> dict[str, Any]:
    """One place of the input that does not fit, as FastAPI's clients expect it."""
    return {"loc": list(place), "msg": message, "type": kind}
