"""The histories of `RunnableWithMessageHistory`: each needs its keys, and its sessions belong to the principal."""

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any, NamedTuple
from uuid import UUID

from langchain_core.runnables import Runnable, RunnableConfig, RunnableWithMessageHistory
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.utils import get_function_nonlocals
from langgraph.pregel import Pregel

from streamserve.call import current_call
from streamserve.lcel.fast_chain import bound_config

Bindings = tuple[RunnableBindingBase[Any, Any], ...]


class History(NamedTuple):
    """A history in a chain.

    Args:
        runnable: the history.
        bindings: the bindings whose configs it gets, from the outermost to the history itself.
    """

    runnable: RunnableWithMessageHistory
    bindings: Bindings

    @property
    def keys(self) -> list[str]:
        """The keys of `configurable` that name a session."""
        takes_keys = inspect.signature(self.runnable.get_session_history).parameters
        return [spec.id for spec in self.runnable.history_factory_config] if takes_keys else []

    def missing(self, config: RunnableConfig) -> list[str]:
        """Return the keys that neither a request's config nor the chain itself has; an empty text names no session."""
        configs = functools.reduce(lambda known, binding: bound_config(binding, known), self.bindings, config)
        configurable = configs.get("configurable") or {}
        return [key for key in self.keys if configurable.get(key) in (None, "")]


def histories_in(runnable: Runnable[Any, Any]) -> list[History]:
    """Return the histories in a chain: in its steps, in the nodes of graphs, and in the functions of both."""
    return list(_found(runnable, (), set()))


def without_defaults(histories: Iterable[History], config: RunnableConfig, asked: RunnableConfig) -> RunnableConfig:
    """Return a config without LangServe's default for a session, which would win over the chain's own session."""
    names = {key for history in histories for key in history.keys} - set(asked.get("configurable") or ())
    kept = {key: value for key, value in (config.get("configurable") or {}).items() if key not in names}
    return {**config, "configurable": kept}


def keep_apart(histories: Iterable[History], chain: str, *, whole: bool = True) -> None:
    """Give each known principal sessions of its own in the histories of a chain.

    Args:
        whole: whether sessions are opened in requests only; a team's own application may call the chain by itself.
            Default: true.
    """
    for history in histories:
        make = history.runnable.get_session_history
        if not isinstance(make, _OwnSessions):
            history.runnable.get_session_history = make = _OwnSessions(make, whole)
        make.chains.add(chain)


class _OwnSessions:
    """A history's factory that gets ids of the principal's own in place of the caller's."""

    def __init__(self, make: Callable[..., Any], whole: bool) -> None:
        self.chains: set[str] = set()
        self._make = make
        self._whole = whole
        functools.update_wrapper(self, make, updated=())  # for the names of its parameters

    def __call__(self, *ids: Any, **named: Any) -> Any:
        call = current_call.get()
        principal = call.principal if call else None
        if principal is None and self._whole:
            raise RuntimeError("A session was opened outside of a request, without a principal")
        nobody = principal is None or (call is not None and call.user is not None and not call.user.is_authenticated)
        if call is not None and call.chain in self.chains and not nobody:
            ids = tuple(session_key(str(principal), each) for each in ids)
            named = {name: session_key(str(principal), each) for name, each in named.items()}
        return self._make(*ids, **named)


def session_key(principal: str, session_id: Any) -> str:
    """Return the id of a principal's session, a UUID, which histories in databases and in files accept."""
    whole = json.dumps([principal, session_id], default=str)
    return str(UUID(bytes=hashlib.sha256(whole.encode()).digest()[:16], version=5))


def _found(part: Any, bindings: Bindings, seen: set[tuple[int, ...]]) -> Iterator[History]:
    if isinstance(part, RunnableBindingBase) and (part.config or part.config_factories):
        bindings = (*bindings, part)
    place = (id(part), *map(id, bindings))
    if place in seen:
        return
    seen.add(place)
    if isinstance(part, RunnableWithMessageHistory):
        yield History(part, bindings)
    for inner in _parts(part):
        yield from _found(inner, bindings, seen)


def _parts(part: Any) -> Iterable[Any]:
    if isinstance(part, Pregel):
        return [node.bound for node in part.nodes.values()]
    if isinstance(part, Runnable):
        return [value for held in getattr(part, "__dict__", {}).values() for value in _held(held)]
    if isinstance(part, Mapping):
        return part.values()
    return part if isinstance(part, list | tuple) else ()


def _held(value: Any) -> Iterable[Any]:
    # Not the functions that a function calls: libraries would be read, too.
    if not isinstance(value, FunctionType | MethodType):
        return (value,)
    return [getattr(named, "__self__", named) for named in get_function_nonlocals(value)]
