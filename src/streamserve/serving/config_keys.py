"""The config of a request: each key is known to the chain or refused by its name.

Keys that LangServe would drop reach the chain too.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from itertools import chain
from typing import Any, cast

from fastapi import HTTPException
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import DEFAULT_RECURSION_LIMIT, merge_configs
from langgraph.pregel import Pregel
from langserve.lzstring import LZString
from pydantic import TypeAdapter, ValidationError

from streamserve.catalog.chain import AnyRunnable
from streamserve.errors import BadRequest, InvalidInput
from streamserve.errors.places import MAX_PLACES, Place, entry
from streamserve.graphs.graph import context_fields
from streamserve.http.json_bounds import exceeded_bound
from streamserve.private_names.langgraph import RECURSION_LIMIT as GRAPH_RECURSION_LIMIT
from streamserve.user import CONFIG_KEYS

# The names of LangChain.js.
_NAMES = {
    "runName": "run_name",
    "maxConcurrency": "max_concurrency",
    "recursionLimit": "recursion_limit",
    "runId": "run_id",
}
# LangChain's clients fill these in, with their defaults, and add the keys of a chain around them to the config.
_FILLED = {"tags", "metadata", "recursion_limit"}
# The prefix of keys that a surrounding LangGraph run leaves in a config; the caller did not write such a config.
_GRAPH_MARK = "__pregel_"
# The characters that LZString writes for addresses; a space is a plus sign that a client has decoded.
_HASH = re.compile(r"[A-Za-z0-9+\-$ ]*")
# Maximum characters of a config: a few thousand characters of a hash can unpack to millions.
MAX_UNPACKED = 32 * 2**10
MAX_DEPTH, MAX_ITEMS = 64, 2000
# Maximum characters of one text in a body's config: templates are read, and names are logged, many times over.
MAX_TEXT = 128 * 2**10
# A width or precision in a template, which makes a text of so many characters.
_WIDE = re.compile(r"\{[^{}:]*+:[^{}]*?\d{5}")
_OWN_CHECKPOINT = {"checkpoint_id", "checkpoint_ns", "checkpoint_map"}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "tags": (lambda value: isinstance(value, list) and all(isinstance(tag, str) for tag in value), "a list of texts"),
    "metadata": (lambda value: isinstance(value, dict), "an object"),
    "run_name": (lambda value: isinstance(value, str), "a text"),
    "max_concurrency": (_is_count, "a number above 0"),
    "recursion_limit": (_is_count, "a number above 0"),
}


class ConfigKeys:
    """The keys of a config that a chain knows."""

    def __init__(
        self,
        runnable: AnyRunnable,
        configurable: Set[str],
        declared: Mapping[str, Any],
        ids: Set[str],
        allowed: Collection[str] | None = None,
    ) -> None:
        graph = runnable if isinstance(runnable, Pregel) else None
        # Nodes read these from `configurable`; LangServe's model of the config does not have them.
        self._beside = (context_fields(graph) if graph else frozenset[str]()) | set(declared)
        self._declared = {name: TypeAdapter(kind) for name, kind in declared.items()}
        self._configurable = configurable | self._beside
        # In process, a number may name a thread or a session.
        self._ids = ids
        self._allowed = allowed
        own = (getattr(runnable, "config", None) or {}).get("recursion_limit")
        self._recursion_limit = own or (GRAPH_RECURSION_LIMIT if graph else DEFAULT_RECURSION_LIMIT)

    def read(self, body: dict[str, Any], config_hash: str) -> list[RunnableConfig]:
        """Return the configs of a request: one for all inputs, or one for each input.

        Args:
            body: the body, of the right outer shape; its configs get the configurable fields of the path.

        Raises:
            InvalidInput: a key is unknown, or its value has a wrong type; with the place.
        """
        in_path = self.read_hash(config_hash)
        said = body.get("config", {})
        errors: list[dict[str, Any]] = []
        for place, config in _placed(said):
            errors += self._check(place, config)
            if in_path.get("configurable") and isinstance(config.get("configurable"), dict):
                # LangServe lets the defaults of the body's fields win over the path.
                config["configurable"] = {**in_path["configurable"], **config["configurable"]}
        if errors:
            raise InvalidInput(errors[:MAX_PLACES])
        configs = [config for _, config in _placed(said)]
        return [self._taken(_merged(in_path, config) if in_path else config) for config in configs]

    def read_hash(self, config_hash: str) -> dict[str, Any]:
        """Return the config in a path; empty if there is none.

        Raises:
            HTTPException: no config can be decoded.
            InvalidInput: as for `read`.
        """
        config = _decoded(config_hash)
        if errors := self._check(("path", "config_hash"), config):
            raise InvalidInput(errors[:MAX_PLACES])
        return config

    def _check(self, place: Place, config: dict[str, Any]) -> list[dict[str, Any]]:
        for name in [name for name in config if name in _NAMES]:
            config[_NAMES[name]] = config.pop(name)
        for name in [name for name, value in config.items() if value is None or name == "run_id"]:
            del config[name]  # as LangServe: the server gives each run its id
        errors = []
        for name, value in config.items():
            if name in ("configurable", "metadata") and isinstance(value, dict):
                _drop_user(value)
            if name == "configurable":
                errors += self._check_configurable((*place, name), value, is_filled=config.keys() >= _FILLED)
            elif name not in _CHECKS:
                errors.append(entry((*place, name), "No such config key can be sent", "extra_forbidden"))
            elif not _CHECKS[name][0](value):
                errors.append(entry((*place, name), f"Input should be {_CHECKS[name][1]}", "value_error"))
            elif any(_is_too_long(text) for text in _texts(value)):
                errors.append(entry((*place, name), _TOO_LONG, "string_too_long"))
        for name in [name for name in config if name != "configurable" and not self._may_set(name)]:
            del config[name]
        return errors

    def _may_set(self, name: str) -> bool:
        return self._allowed is None or name in self._allowed

    def _check_configurable(self, place: Place, configurable: Any, *, is_filled: bool) -> list[dict[str, Any]]:
        if not isinstance(configurable, dict):
            return [entry(place, "Input should be an object", "dict_type")]
        in_graph = any(name.startswith(_GRAPH_MARK) for name in configurable)
        if in_graph or is_filled:
            _keep(configurable, self._configurable - (_OWN_CHECKPOINT if in_graph else set()))
        for name in self._ids & configurable.keys():
            if type(configurable[name]) is int:
                configurable[name] = str(configurable[name])
        known, reason = self._configurable, "This chain does not know this key"
        if not self._may_set("configurable"):
            known, reason = set(), "Callers cannot set this key"
        unknown = [name for name in configurable if name not in known]
        errors = [entry((*place, name), reason, "extra_forbidden") for name in unknown]
        for name, value in configurable.items():
            if _is_too_long(value):
                errors.append(entry((*place, name), _TOO_LONG, "string_too_long"))
            elif isinstance(value, str) and _WIDE.search(value):
                errors.append(entry((*place, name), "A template's field is too wide", "template_error"))
        return errors + self._check_declared(place, configurable)

    def _check_declared(self, place: Place, configurable: dict[str, Any]) -> list[dict[str, Any]]:
        errors = []
        for name in self._declared.keys() & configurable.keys():
            try:
                configurable[name] = self._declared[name].validate_python(configurable[name])
            except ValidationError as error:
                errors += [entry((*place, name, *at["loc"]), at["msg"], at["type"]) for at in error.errors()]
        return errors

    def _taken(self, config: Mapping[str, Any]) -> RunnableConfig:
        taken = dict(config)
        limit = taken.pop("recursion_limit", DEFAULT_RECURSION_LIMIT)
        # LangChain's clients send their default without being asked.
        if limit != DEFAULT_RECURSION_LIMIT and limit < self._recursion_limit:
            taken["recursion_limit"] = limit
        return cast(RunnableConfig, taken)

    def beside(self, config: RunnableConfig) -> RunnableConfig:
        """Return the part of a config that LangServe drops."""
        configurable = config.get("configurable") or {}
        kept = {name: value for name, value in configurable.items() if name in self._beside}
        return cast(RunnableConfig, {**config, "configurable": kept})


def _keep(configurable: dict[str, Any], names: Collection[str]) -> None:
    for name in configurable.keys() - names:
        del configurable[name]


def _merged(in_path: dict[str, Any], in_body: dict[str, Any]) -> dict[str, Any]:
    merged = merge_configs(cast(RunnableConfig, in_path), cast(RunnableConfig, in_body))
    return {name: value for name, value in merged.items() if name in in_path or name in in_body}


_TOO_LONG = f"A text has at most {MAX_TEXT} characters"


def _is_too_long(value: Any) -> bool:
    return isinstance(value, str) and len(value) > MAX_TEXT


def _texts(value: Any) -> Iterable[Any]:
    return chain(value, value.values()) if isinstance(value, dict) else value if isinstance(value, list) else (value,)


def _drop_user(values: dict[str, Any]) -> None:
    # Not an error: a surrounding chain of this server or of LangGraph's hands on its own.
    for name in CONFIG_KEYS:
        values.pop(name, None)


def _placed(said: Any) -> list[tuple[Place, dict[str, Any]]]:
    if isinstance(said, list):
        return [(("body", "config", index), config) for index, config in enumerate(said)]
    return [(("body", "config"), said)]


def require_plausible(config_hash: str, max_length: int) -> None:
    """Refuse a config hash that no client makes, before it is unpacked.

    Raises:
        BadRequest: the hash is too long, or has other characters.
    """
    if len(config_hash) > max_length:
        raise BadRequest(f"The config in the path has more than {max_length} characters")
    if not _HASH.fullmatch(config_hash):
        raise BadRequest("The config in the path is not encoded as LZString does it")


def _decoded(config_hash: str) -> dict[str, Any]:
    if not config_hash:
        return {}
    try:
        text = LZString.decompressFromEncodedURIComponent(config_hash)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise _undecodable() from error
    if text and (len(text) > MAX_UNPACKED or exceeded_bound(text.encode(errors="replace"), MAX_DEPTH, MAX_ITEMS)):
        raise BadRequest("The config in the path is too large")
    try:
        found = json.loads(text)
    except Exception as error:
        raise _undecodable() from error
    if not isinstance(found, dict):
        raise _undecodable()
    return found


def _undecodable() -> HTTPException:
    return HTTPException(400, "Invalid config hash")  # as LangServe
