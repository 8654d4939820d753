"""From a request to its call: admit the caller, then read what the request says and check it."""

from inspect import isawaitable
from typing import Any, cast

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from langchain_core.runnables import RunnableConfig
from pydantic import ValidationError

from streamserve.api.access import ANONYMOUS, idempotency_key, principal_of
from streamserve.api.services import services_of
from streamserve.auth.identity import claims_of, scopes_of
from streamserve.call import Call, current_call
from streamserve.errors import InvalidInput, Overloaded, RateLimited, TooManyRuns
from streamserve.errors.places import entry
from streamserve.graphs import arguments
from streamserve.serving.recovery import Recovery
from streamserve.serving.request_body import read_kwargs
from streamserve.serving.served import ServedRunnable
from streamserve.user import User, as_user, without_user


def begin_call(served: ServedRunnable) -> Call:
    """Make the call of a request, and put it in the request's context, which the run's task copies."""
    name, chain = served.served.name, served.served.chain
    call = Call(chain=name, expose_errors=chain.expose_errors, serializer=chain.serializer)
    current_call.set(call)
    return call


async def admit(request: Request, call: Call, served: ServedRunnable, path: str, *, starts_run: bool) -> None:
    """Admit a caller that the guard has let in, before anything of the body is read.

    No limit refuses a request whose key names a run: it joins that run.

    Args:
        path: the route's path, to which the keys of runs belong.
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
    # In a team's own application, its middleware or a dependency may have named the caller.
    known = services.auth.knows_callers or call.principal != ANONYMOUS
    call.user = User(call.principal, scopes_of(request), claims_of(request), is_authenticated=known)
    if request.method == "POST":
        try:
            await services.limits.admit(request, entry.name, entry.chain, starts_run=starts_run)
        except (Overloaded, TooManyRuns, RateLimited):
            key = idempotency_key(request, path) if starts_run else None
            if key is None or await services.runs.store.named(key) is None:
                raise


async def prepare(
    request: Request,
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
    if served.served.chain.config is not None:
        call.configs = [await _changed(request, call, served, config) for config in call.configs]
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


async def _changed(request: Request, call: Call, served: ServedRunnable, config: RunnableConfig) -> RunnableConfig:
    """Return a request's config as the record's function changes it; it sees only keys that the caller sent."""
    change = served.served.chain.config
    assert change is not None
    asked = {"configurable": config.get("configurable") or {}}
    try:
        known = served.config_model.model_validate(asked).model_dump(exclude_unset=True).get("configurable") or {}
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    given = {**config, "configurable": {**asked["configurable"], **known}}
    result = change(dict(as_user(cast(RunnableConfig, given), call.user)), request)
    changed = await result if isawaitable(result) else result
    kept = {**changed, "configurable": without_user(changed.get("configurable") or {})}
    return cast(RunnableConfig, {name: value for name, value in kept.items() if name != "run_id"})


def _require_sessions(served: ServedRunnable, configs: list[RunnableConfig], *, in_list: bool) -> None:
    errors = []
    for index, config in enumerate(configs if served.histories else ()):
        place = ("body", "config", *((index,) if in_list else ()), "configurable")
        missing = dict.fromkeys(key for history in served.histories for key in history.missing(config))
        errors += [entry((*place, key), "Field required", "missing") for key in missing]
    if errors:
        raise InvalidInput(errors)
