"""From a request to its call: admit the caller, then read what the request says and check it."""

from typing import Any

from fastapi import Request
from langchain_core.runnables import RunnableConfig

from streamserve.api.access import principal_of
from streamserve.api.services import services_of
from streamserve.call import Call, current_call
from streamserve.errors import InvalidInput
from streamserve.errors.places import entry
from streamserve.graphs import arguments
from streamserve.serving.recovery import Recovery
from streamserve.serving.request_body import read_kwargs
from streamserve.serving.served import ServedRunnable


def begin_call(served: ServedRunnable) -> Call:
    """Make the call of a request, and put it in the request's context, which the run's task copies."""
    entry = served.served
    call = Call(chain=entry.name, expose_errors=entry.chain.expose_errors)
    current_call.set(call)
    return call


async def admit(request: Request, call: Call, served: ServedRunnable, *, starts_run: bool) -> None:
    """Admit a caller that the guard has let in, before anything of the body is read.

    Args:
        starts_run: whether the request starts a run, or a call without a stream.

    Raises:
        Forbidden: the caller does not have the chain's scopes.
        Overloaded: the worker has as many runs as it takes.
        TooManyRuns: the caller has as many runs as it may have.
        RateLimited: the caller sends too many requests.
    """
    services, entry = services_of(request), served.served
    services.auth.check(request, entry.name)
    call.principal = principal_of(request)
    if request.method == "POST":
        await services.limits.admit(request, entry.name, entry.chain, starts_run=starts_run)


def prepare(
    call: Call,
    served: ServedRunnable,
    recovery: Recovery,
    endpoint: str,
    body: dict[str, Any],
    config_hash: str = "",
    recover: str | None = None,
) -> None:
    """Read what a request says into its call: body, arguments, configs, and whether the run is recovered.

    Raises:
        InvalidInput: an argument or a key of the config does not fit, or the key of a session is missing; with the
            place.
        BadRequest: the header does not fit.
    """
    call.body = body
    call.kwargs = _arguments(served, endpoint, body)
    call.configs = served.config_keys.read(body, config_hash)
    _require_sessions(served, call.configs, in_list=isinstance(body.get("config"), list))
    call.recover = recovery.wanted(served, endpoint, recover, call.kwargs)
    if call.recover:  # a step's checkpoint must be stored before the next step begins
        call.kwargs["durability"] = "sync"


def _arguments(served: ServedRunnable, endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
    own = frozenset({"return_exceptions"} if endpoint == "batch" else ())
    if served.graph is None:
        return read_kwargs(body, own)
    of_graph = arguments.OF_EVENTS if endpoint == "stream_events" else arguments.NAMES
    return arguments.read_arguments(read_kwargs(body, own | of_graph), served.served.chain, served.graph)


def _require_sessions(served: ServedRunnable, configs: list[RunnableConfig], *, in_list: bool) -> None:
    errors = []
    for index, config in enumerate(configs if served.histories else ()):
        place = ("body", "config", *((index,) if in_list else ()), "configurable")
        missing = dict.fromkeys(key for history in served.histories for key in history.missing(config))
        errors += [entry((*place, key), "Field required", "missing") for key in missing]
    if errors:
        raise InvalidInput(errors)
