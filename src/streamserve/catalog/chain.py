"""The Chain record, which a chain module declares.

This module imports langchain-core only, so that a chain module loads without the server.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from langchain_core.runnables import Runnable
from pydantic import BaseModel, PydanticUserError, TypeAdapter

from streamserve.user import CONFIG_KEYS

AnyRunnable = Runnable[Any, Any]
# Its second argument is Starlette's request, which this module does not import.
ConfigFunction = Callable[[dict[str, Any], Any], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]
Playground = Literal["default", "chat"]
MultitaskStrategy = Literal["reject", "enqueue", "interrupt", "rollback"]
StreamMode = Literal["values", "updates", "messages", "custom", "tasks", "checkpoints", "debug"]
Endpoint = Literal[
    "invoke",
    "batch",
    "stream",
    "stream_log",
    "stream_events",
    "playground",
    "input_schema",
    "output_schema",
    "config_schema",
    "config_hashes",
    "feedback",
    "token_feedback",
    "public_trace_link",
]

# The keys of a config that a request can set.
CALLERS_KEYS = frozenset({"configurable", "max_concurrency", "metadata", "recursion_limit", "run_name", "tags"})
_RATE_LIMIT = r"\d+\s*/\s*(\d+\s*)?(second|minute|hour|day)s?"
# The notation of the package `limits`, without an import of it here.
RATE_LIMITS = re.compile(rf"{_RATE_LIMIT}(\s*;\s*{_RATE_LIMIT})*")


class InvalidChain(TypeError, ValueError):
    """A chain that cannot be served."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """One served chain or graph. The module's file name is the chain's name.

    Args:
        runnable: chain, compiled graph (without a checkpointer, because the server adds its own), or function without
            arguments that makes one of these.
        input_type: pydantic model or type annotation (default: the runnable's own input type).
        output_type: pydantic model or type annotation (default: the runnable's own output type).
        description: description for people, in Markdown (default: the module's docstring).
        examples: valid inputs, shown in OpenAPI, on the home page and as playground defaults.
        tags: labels for the home page.
        scopes: scopes that a caller's credential must have, all of them; ignored without authentication.
        playground: "default", "chat" or None for no page (default: "chat" if the input is messages and the output is
            a message or text, else "default").
        enabled_endpoints: endpoints to serve, by LangServe's names, such as ["invoke", "stream"]. "stream" includes
            background runs; "config_hashes" stands for the paths with a config (default: all).
        disabled_endpoints: endpoints not to serve; not together with `enabled_endpoints` (default: none).
        stream_log_name_allow_list: names of chains whose steps callers may see. /stream_log and /stream_events send
            data only if the runnable's own `run_name` or name is in this list, as in LangServe (default: any name).
        stream_modes: for graphs, modes that a caller may request. Without a request, a graph that keeps `messages`
            streams message chunks, and any other graph streams the first of these modes.
        timeout: maximum duration of a run, in seconds (default: the server's `run_timeout`).
        on_disconnect: "continue" or "cancel" when the last reader of a run leaves (default: the server's setting).
        rate_limit: requests of one caller, such as "60/minute" or "5/second; 1000/day" (default: the server's setting).
        max_concurrency: maximum active runs of one caller in one worker (default: the server's setting).
        expose_errors: whether callers see the texts of the chain's own exceptions, which may hold secrets (default
            false).
        serializer: object with LangServe's method `dumps`, which returns the JSON of a value as bytes. It is asked for
            values that have no JSON form otherwise, such as objects of your own classes (default: none).
        callback_events: whether answers of /invoke and /batch have the callbacks of every step, which clients pass on
            to their own handlers. They show prompts, values between the steps and settings of models (default false).
        multitask_strategy: for graphs, the rule for a second run on the same thread. "reject" answers it with 409,
            "enqueue" lets it wait, "interrupt" cancels the runs before it and resumes where they stopped, "rollback"
            cancels them and starts where they started (default "reject").
        recover: for graphs, whether another worker resumes a run of a dead worker from its last checkpoint; the node
            that was active then runs again. A request can override this (default false).
        share_sessions: for `RunnableWithMessageHistory`, whether callers with the same session id share its history
            (default false: a session belongs to its principal).
        configurable: keys of `config.configurable` that callers may send although the runnable does not declare them,
            with the type of each (default: none).
        config_keys: keys of a config that callers may set, such as "configurable" and "tags"; another `configurable` is
            refused, and the other keys are ignored, because clients fill them in (default: all).
        config: function of a request's config and the request that returns the config for the chain; it may be async
            (default: the chain gets the caller's config).
        feedback: whether callers may give feedback on a run, which goes to LangSmith (default false).
        token_feedback: key of the feedback for which answers bring a token; "" for an endpoint without tokens (default:
            no endpoint).
        public_trace_link: whether callers may make the trace of a run in LangSmith public (default false).

    Raises:
        InvalidChain: a field is invalid; the text names it.
    """

    runnable: AnyRunnable | Callable[[], AnyRunnable]
    input_type: Any = None
    output_type: Any = None
    description: str = ""
    examples: Sequence[Any] = field(default_factory=tuple)
    tags: Sequence[str] = field(default_factory=tuple)
    scopes: Sequence[str] = ()
    playground: Playground | Literal["auto"] | None = "auto"
    enabled_endpoints: Sequence[Endpoint] | None = None
    disabled_endpoints: Sequence[Endpoint] | None = None
    stream_log_name_allow_list: Sequence[str] | None = None
    stream_modes: Sequence[StreamMode] = ("updates", "values", "messages", "custom")
    timeout: float | None = None
    on_disconnect: Literal["continue", "cancel"] | None = None
    rate_limit: str | None = None
    max_concurrency: int | None = None
    expose_errors: bool = False
    serializer: Any = None
    callback_events: bool = False
    multitask_strategy: MultitaskStrategy = "reject"
    recover: bool = False
    share_sessions: bool = False
    configurable: Mapping[str, Any] = field(default_factory=dict)
    config_keys: Sequence[str] | None = None
    config: ConfigFunction | None = None
    feedback: bool = False
    token_feedback: str | None = None
    public_trace_link: bool = False

    def __post_init__(self) -> None:
        _require(
            isinstance(self.runnable, Runnable) or callable(self.runnable),
            f"runnable: a Runnable or a function that makes one, not {type(self.runnable).__name__}",
        )
        _require(
            self.playground is None or self.playground in ("auto", *get_args(Playground)),
            f"playground: 'default', 'chat' or None, not {self.playground!r}",
        )
        _require(not isinstance(self.tags, str), "tags: a list of texts, not one text")
        _require(
            not isinstance(self.scopes, str) and all(isinstance(scope, str) and scope for scope in self.scopes),
            "scopes: a list of texts, not one text",
        )
        _require(isinstance(self.examples, Sequence), "examples: a list of inputs")
        _check_endpoints("enabled_endpoints", self.enabled_endpoints)
        _check_endpoints("disabled_endpoints", self.disabled_endpoints)
        _require(
            not (self.enabled_endpoints and self.disabled_endpoints),
            "enabled_endpoints: not together with disabled_endpoints",
        )
        _require(
            self.stream_log_name_allow_list is None or _are_texts(self.stream_log_name_allow_list),
            "stream_log_name_allow_list: a list of texts",
        )
        _require(
            self.serializer is None or callable(getattr(self.serializer, "dumps", None)),
            "serializer: an object with a method `dumps`",
        )
        _require(self.timeout is None or self.timeout > 0, f"timeout: seconds above 0, not {self.timeout!r}")
        _require(
            self.on_disconnect in (None, "continue", "cancel"),
            f"on_disconnect: 'continue' or 'cancel', not {self.on_disconnect!r}",
        )
        _require(
            self.multitask_strategy in get_args(MultitaskStrategy),
            f"multitask_strategy: {', '.join(get_args(MultitaskStrategy))}, not {self.multitask_strategy!r}",
        )
        _require(
            self.rate_limit is None or RATE_LIMITS.fullmatch(self.rate_limit) is not None,
            f"rate_limit: such as '60/minute' or '5/second; 1000/day', not {self.rate_limit!r}",
        )
        _require(
            self.max_concurrency is None or self.max_concurrency > 0,
            f"max_concurrency: a number above 0, not {self.max_concurrency!r}",
        )
        _require(
            self.config_keys is None
            or (not isinstance(self.config_keys, str) and set(self.config_keys) <= CALLERS_KEYS),
            f"config_keys: a list of {', '.join(sorted(CALLERS_KEYS))}, not {self.config_keys!r}",
        )
        _require(self.config is None or callable(self.config), "config: a function of a config and a request")
        _check_configurable(self.configurable)
        unknown = set(self.stream_modes) - set(get_args(StreamMode))
        _require(not unknown and bool(self.stream_modes), f"stream_modes: unknown or empty: {sorted(unknown)}")

    @property
    def not_served(self) -> frozenset[str]:
        """The endpoints that are off, by LangServe's names."""
        if self.enabled_endpoints is not None:
            listed = {*get_args(Endpoint)} - _lowered(self.enabled_endpoints)
        else:
            listed = _lowered(self.disabled_endpoints or ())
        by_field = {
            "playground": self.playground is not None,
            "feedback": self.feedback,
            "token_feedback": self.token_feedback is not None,
            "public_trace_link": self.public_trace_link,
        }
        return frozenset(listed | {name for name, on in by_field.items() if not on})

    def build(self) -> AnyRunnable:
        """Return the runnable without the declared types, which would hide a graph; the server binds them.

        Raises:
            InvalidChain: the function returned no Runnable, or an example does not fit the input type.
        """
        runnable = self.runnable if isinstance(self.runnable, Runnable) else self.runnable()
        _require(isinstance(runnable, Runnable), f"runnable: the function made a {type(runnable).__name__}")
        _require(not self.recover or keeps_checkpoints(runnable), "recover: only a graph with checkpoints can resume")
        if self.examples:
            self._check_examples(runnable)
        return runnable

    def _check_examples(self, runnable: AnyRunnable) -> None:
        from streamserve.catalog.substitutes import substitute
        from streamserve.catalog.widening import with_messages

        declared = runnable.with_types(input_type=self.input_type, output_type=self.output_type)
        try:
            made = declared.get_input_schema()
        except PydanticUserError:
            made = substitute(runnable, "input")
        schema = cast(type[BaseModel], with_messages(made, in_graph=True))
        for number, example in enumerate(self.examples):
            try:
                schema.model_validate(example)
            except Exception as error:  # LangChain's own validators raise KeyError and others
                raise InvalidChain(f"examples[{number}] does not fit the input type: {error}") from error


def _are_texts(listed: Any) -> bool:
    return isinstance(listed, Sequence) and not isinstance(listed, str) and all(isinstance(one, str) for one in listed)


def _lowered(names: Sequence[str]) -> set[str]:
    return {name.lower() for name in names}  # as LangServe reads them


def _check_endpoints(field_name: str, listed: Any) -> None:
    if listed is None:
        return
    _require(_are_texts(listed), f"{field_name}: a list of names, not {listed!r}")
    unknown = sorted(_lowered(listed) - {*get_args(Endpoint)})
    _require(not unknown, f"{field_name}: unknown: {unknown}; known: {', '.join(get_args(Endpoint))}")


def _check_configurable(declared: Mapping[str, Any]) -> None:
    _require(isinstance(declared, Mapping), "configurable: an object with the type of each key")
    for name, kind in declared.items():
        _require(not name.startswith("__") and name not in CONFIG_KEYS, f"configurable: only the server sets {name}")
        try:
            TypeAdapter(kind)
        except Exception as error:
            raise InvalidChain(f"configurable: {name} has no type that pydantic can check: {error}") from error


def keeps_checkpoints(runnable: AnyRunnable) -> bool:
    """Return whether the runnable is a graph with a checkpointer of its own or of the server."""
    # A subgraph has True for its parent's checkpointer, or False for none.
    return hasattr(runnable, "aget_state_history") and not isinstance(getattr(runnable, "checkpointer", False), bool)


def _require(is_valid: bool, message: str) -> None:
    if not is_valid:
        raise InvalidChain(message)
