"""LangServe's requests: what the body of each endpoint must have, and the version of events that it asks for."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args
from uuid import UUID

from fastapi import HTTPException
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import merge_configs
from langserve import __version__
from pydantic import BaseModel

from streamserve.call import Call, EventVersion, new_run_id
from streamserve.errors.places import invalid
from streamserve.graphs.progress import with_run_id
from streamserve.serving.request_body import check_shape
from streamserve.serving.served import ServedRunnable
from streamserve.wire.input_types import decode_input_types

# The field that the body of each endpoint must have; these endpoints start a run, or a call without a stream.
REQUIRED = {
    "invoke": "input",
    "batch": "inputs",
    "stream": "input",
    "stream_log": "input",
    "stream_events": "input",
    "runs": "input",
}


# `ServedRunnable` adds these; callbacks, which only a record's function sets, would come twice.
_LATER = ("configurable", "callbacks")
# The argument of `astream_log` that clients send beside the chain's own.
_LIST = "with_streamed_output_list"
# These endpoints make runs.
STREAMS = ("stream", "stream_log", "stream_events", "runs")


class Filters(BaseModel):
    """Filter of events or patches for the caller: LangServe's parameters of /stream_log and /stream_events."""

    include_names: Sequence[str] | None = None
    include_types: Sequence[str] | None = None
    include_tags: Sequence[str] | None = None
    exclude_names: Sequence[str] | None = None
    exclude_types: Sequence[str] | None = None
    exclude_tags: Sequence[str] | None = None


class LogFilters(Filters):
    """Filter of patches: also whether each chunk is added to a list of all chunks, as `Runnable.astream_log` has it."""

    with_streamed_output_list: bool = True


def read_body(parsed: Any, endpoint: str, max_batch: int) -> tuple[dict[str, Any], EventVersion]:
    """Return the body of a request with the types of its input, and the version of events, by default "v2".

    Args:
        parsed: the JSON of the body.
        endpoint: the last part of the path.
        max_batch: the largest number of inputs.

    Raises:
        InvalidInput: the outer shape does not fit; with the place.
    """
    body = check_shape(parsed, REQUIRED[endpoint], max_batch)
    decode_input_types(body, REQUIRED[endpoint])
    if endpoint == "stream_log":
        body = _with_log_arguments(body)
    return _without_version(body) if endpoint == "stream_events" else (body, "v2")


def name_run(call: Call, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with the run's id and the caller's own keys, which LangServe would drop.

    One id stands for the run, LangServe's metadata and the trace. Another attempt at the run begins with this config.

    Args:
        call: prepared; keeps the config.
        config: the configurable fields.
    """
    asked = call.configs[0] if call.configs else {}
    named = {**config, **{key: value for key, value in asked.items() if key not in _LATER}, "run_id": call.run_id}
    call.config = with_run_id(named, call.run_id) if call.recover else named
    return call.config


def config_of(
    served: ServedRunnable, call: Call, in_path: Mapping[str, Any], endpoint: str, agent: str | None
) -> RunnableConfig:
    """Return the config that LangServe would give the chain for a request.

    Args:
        served: the chain.
        call: prepared.
        in_path: the config in the path, or empty.
        endpoint: the name of LangServe's endpoint.
        agent: the client's `User-Agent`.

    Raises:
        ValidationError: a configurable field does not fit.
    """
    own = _own(served, endpoint, agent)
    configs = [config for config in (in_path, call.body.get("config")) if config]
    named = cast(RunnableConfig, name_run(call, {"configurable": _fields(served, call, configs)}))
    if configs or call.recover:
        return merge_configs(named, own)
    # The same: merging takes 7 % of a short request. Completion models fail with an empty list of callbacks.
    return {"tags": [], **named, **own}


def configs_of(
    served: ServedRunnable, call: Call, in_path: Mapping[str, Any], agent: str | None
) -> list[RunnableConfig]:
    """Return one config for each input of a batch, with an id for its run; arguments are those of `config_of`.

    Raises:
        ValidationError: a configurable field does not fit.
        HTTPException: there is another number of configs than of inputs; as LangServe says it.
    """
    said, count = call.body.get("config"), len(call.body["inputs"])
    each = said if isinstance(said, list) else [said] * count
    if len(each) != count:
        raise HTTPException(422, f"Number of configs ({len(each)}) must match number of inputs ({count})")
    own = _own(served, "batch", agent)
    return [
        merge_configs(
            RunnableConfig(
                configurable=_fields(served, call, [config for config in (in_path, one) if config], index),
                run_id=UUID(new_run_id()),
            ),
            own,
        )
        for index, one in enumerate(each)
    ]


def items_at_once(call: Call) -> int:
    """Return how many items of a batch the request lets run at once; as LangChain, by the first config."""
    most = call.configs[0].get("max_concurrency") if call.configs else None
    return min(len(call.body["inputs"]), most or sys.maxsize)


def _own(served: ServedRunnable, endpoint: str, agent: str | None) -> RunnableConfig:
    metadata = {"__useragent": agent, "__langserve_version": __version__, "__langserve_endpoint": endpoint}
    return RunnableConfig(metadata=metadata, run_name=served.served.path)


def _fields(served: ServedRunnable, call: Call, configs: Sequence[Mapping[str, Any]], index: int = 0) -> dict[str, Any]:
    if served.served.chain.config is None:
        return _configurable(served, configs)
    # The record's function has made these from valid ones; the input's schema follows them.
    return dict(call.configs[index if len(call.configs) > 1 else 0].get("configurable") or {})


def _configurable(served: ServedRunnable, configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for config in configs:
        found |= served.config_model.model_validate(config).model_dump().get("configurable") or {}
    return found


def filters_of(endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the filters that a body of /stream_log or /stream_events names.

    Raises:
        ValidationError: a filter is not a list of texts.
    """
    return (LogFilters if endpoint == "stream_log" else Filters).model_validate(body).model_dump()


def _with_log_arguments(body: dict[str, Any]) -> dict[str, Any]:
    kwargs = body.get("kwargs")
    if not isinstance(kwargs, dict):
        return body
    rest, found = dict(kwargs), {}
    # As LangServe: a stream of patches whatever its client asks for, which sends this argument of its own.
    if isinstance(kwargs.get("diff"), bool | None):
        rest.pop("diff", None)
    if isinstance(kwargs.get(_LIST), bool):
        found[_LIST] = rest.pop(_LIST)
    return {**body, **found, "kwargs": rest}


def _without_version(body: dict[str, Any]) -> tuple[dict[str, Any], EventVersion]:
    kwargs = body.get("kwargs")
    if not isinstance(kwargs, dict) or kwargs.get("version") is None:
        return body, "v2"
    version = kwargs["version"]
    if version not in list(get_args(EventVersion)):
        options = ", ".join(get_args(EventVersion))
        raise invalid(("body", "kwargs", "version"), f"Input should be one of: {options}", "literal_error")
    if version == "v3":
        _check_third(body, kwargs)
    rest = {name: value for name, value in kwargs.items() if name != "version"}
    return {**body, "kwargs": rest}, cast(EventVersion, version)


def _check_third(body: dict[str, Any], kwargs: dict[str, Any]) -> None:
    if kwargs.get("subgraphs") is not None:
        raise invalid(
            ("body", "kwargs", "subgraphs"), "Events of version 3 are always of all subgraphs", "extra_forbidden"
        )
    # It always has the events of subgraphs.
    for name in Filters.model_fields:
        if body.get(name) is not None:
            raise invalid(("body", name), "Events of version 3 have no filters", "extra_forbidden")
