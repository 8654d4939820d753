"""add_routes: chains in a FastAPI application of the team's own, with LangServe's signature.

The runs start with the application's lifespan, whatever it is, and the application keeps its middleware, its handlers
of errors and its other routes.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Request, params
from langchain_core.runnables import Runnable

from streamserve.api.checks import Checks
from streamserve.api.route import ServedRoute
from streamserve.api.runs import add_run_routes
from streamserve.api.services import Services, find_services, install, services_in, services_of
from streamserve.auth import Auth
from streamserve.auth.guard import named_by
from streamserve.catalog.chain import AnyRunnable, Chain, ConfigFunction, Endpoint, Playground
from streamserve.catalog.registry import RegisteredChain
from streamserve.doors.langserve.routes import Door, add_chain_routes
from streamserve.errors import NotFound
from streamserve.graphs.checkpoints import Checkpoints
from streamserve.lifespan import ensure_running, running
from streamserve.private_names.fastapi import routes_in
from streamserve.runs.runs import Runs
from streamserve.serving.chains import serve
from streamserve.serving.histories import keep_apart
from streamserve.serving.limits import Limits
from streamserve.serving.recovery import Recovery
from streamserve.serving.served import ServedRunnable
from streamserve.settings import Settings
from streamserve.telemetry import Telemetry

# The name of a chain whose path is empty.
ROOT = "root"


def add_routes(
    app: FastAPI | APIRouter,
    runnable: AnyRunnable | Chain,
    *,
    path: str = "",
    input_type: Any = "auto",
    output_type: Any = "auto",
    config_keys: Sequence[str] = ("configurable",),
    include_callback_events: bool = False,
    per_req_config_modifier: ConfigFunction | None = None,
    disabled_endpoints: Sequence[Endpoint] | None = None,
    stream_log_name_allow_list: Sequence[str] | None = None,
    enabled_endpoints: Sequence[Endpoint] | None = None,
    dependencies: Sequence[Any] | None = None,
    playground_type: Playground = "default",
    astream_events_version: Literal["v2"] = "v2",
    serializer: Any = None,
    enable_feedback_endpoint: bool = False,
    token_feedback_config: Mapping[str, Any] | None = None,
    enable_public_trace_link_endpoint: bool = False,
    guard: Callable[..., Any] | None = None,
) -> None:
    """Serve a chain or graph below a path, with LangServe's endpoints and everything that a run promises.

    The first call also adds the routes of the runs, `/runs/...`, to the application or router. They solve the
    dependencies of the run's own chain. The settings are those of the environment, unless `configure` gave others.

    Args:
        app: the application, or a router that it includes or mounts.
        runnable: the chain or graph; or a `Chain`, whose fields then say what the arguments below would say.
        path: the path of the chain on the application or router, such as "/joke".
        input_type: type of the input (default "auto": the runnable's own).
        output_type: type of the output, to which it is checked (default "auto": the runnable's own, unchecked).
        config_keys: keys of a config that callers may set.
        include_callback_events: as `Chain.callback_events`.
        per_req_config_modifier: as `Chain.config`.
        disabled_endpoints: as `Chain.disabled_endpoints`.
        stream_log_name_allow_list: as `Chain.stream_log_name_allow_list`.
        enabled_endpoints: as `Chain.enabled_endpoints`.
        dependencies: FastAPI dependencies of every route of the chain and of its runs. One of them may name the
            caller: it sets `request.state.principal`.
        playground_type: "default" or "chat".
        astream_events_version: "v2" only; callers ask for version 3 themselves.
        serializer: as `Chain.serializer`.
        enable_feedback_endpoint: as `Chain.feedback`.
        token_feedback_config: LangServe's form of `Chain.token_feedback`: {"key_configs": [{"key": "..."}]}.
        enable_public_trace_link_endpoint: as `Chain.public_trace_link`.
        guard: a dependency that names the caller: it returns a name or an `Identity`, or sets
            `request.state.principal` (default: the one given to `configure`, or none).

    Raises:
        TypeError: `runnable` is neither a Runnable nor a Chain, or a Chain comes with its arguments.
        ValueError: the path is taken or has no slash at its start, or an argument is invalid.
    """
    given = {
        "input_type": (input_type, "auto"),
        "output_type": (output_type, "auto"),
        "config_keys": (tuple(config_keys), ("configurable",)),
        "callback_events": (include_callback_events, False),
        "config": (per_req_config_modifier, None),
        "disabled_endpoints": (disabled_endpoints, None),
        "stream_log_name_allow_list": (stream_log_name_allow_list, None),
        "enabled_endpoints": (enabled_endpoints, None),
        "playground": (playground_type, "default"),
        "serializer": (serializer, None),
        "feedback": (enable_feedback_endpoint, False),
        "token_feedback": (_key_of(token_feedback_config), ""),
        "public_trace_link": (enable_public_trace_link_endpoint, False),
    }
    if astream_events_version != "v2":
        raise ValueError(f"astream_events_version: 'v2', not {astream_events_version!r}")
    if path and not path.startswith("/"):
        raise ValueError(f"path: {path!r} must start with a slash")
    chains = chains_on(app)
    own = [*(dependencies or ()), *([named_by(guard)] if guard else ())]
    chains.add(_entry(chains.prefix + path.rstrip("/"), _record(runnable, given)), own)


def configure(app: FastAPI, *, settings: Settings | None = None, guard: Callable[..., Any] | None = None) -> None:
    """Say how an application serves its chains; before the first `add_routes` on it.

    Args:
        app: the application. Routers that it includes follow it.
        settings: the settings of the runs, such as their store (default: those of the environment).
        guard: a dependency of every chain and run that names the caller: it returns a name or an `Identity`, or sets
            `request.state.principal` (default: none, so whoever reaches the application may call its chains).

    Raises:
        ValueError: the application has chains already, or a setting is invalid.
    """
    if find_services(app) is not None:
        raise ValueError("configure: call it once, before the first add_routes on the application")
    settings = settings or Settings()
    if guard is None and not settings.auth:
        # Who reaches the application is the team's decision, and `host` is not its address.
        settings = settings.model_copy(update={"insecure_public": True})
    install(app, make_services(settings, guard, Telemetry(settings)))
    _live_with(app.router)


def make_services(settings: Settings, guard: Callable[..., Any] | None, telemetry: Telemetry) -> Services:
    """Return the services of one application.

    Raises:
        ValueError: a setting is invalid.
    """
    services = Services(
        settings=settings,
        runs=Runs(settings),
        limits=Limits(settings),
        auth=Auth(settings, guard),
        telemetry=telemetry,
        checkpoints=Checkpoints(settings),
    )
    services.runs.observer = telemetry
    return services


class Chains:
    """The chains on one application or router, and what a request to one of them needs.

    Args:
        router: the router.
        services: the services of the application; None: the router's application is not known yet.
        whole: whether the application serves nothing but chains. Default: False.
    """

    def __init__(self, router: APIRouter, services: Services | None, *, whole: bool = False) -> None:
        self.prefix = router.prefix
        self.doors: list[Door] = []
        self._router = router
        self._services = services
        self._whole = whole
        self._has_runs = False
        self._checks: dict[Door, Checks] = {}
        self._bound: tuple[dict[str, Any], int] | None = None

    def add(self, entry: RegisteredChain, dependencies: Sequence[params.Depends] = ()) -> None:
        """Add a chain, with the dependencies of its routes and runs beside the guard of the application."""
        self.add_served(serve(entry, keeps=True), dependencies)

    def add_served(self, served: ServedRunnable, dependencies: Sequence[params.Depends] = ()) -> None:
        """Add a runnable of `serve`; arguments as for `add`.

        Raises:
            ValueError: the path is taken, or a graph needs another place for its checkpoints.
        """
        taken = served.served.path in [door.served.served.path for door in self.doors]
        if taken and self._services is not None:
            raise ValueError(f"A runnable already exists at path: {served.served.path or '/'}")
        guard = self._services.auth.dependencies if self._services else []
        door = Door(served=served, prefix=self.prefix, dependencies=[*guard, *dependencies])
        self.add_runs()
        self.doors.append(door)
        self._checks[door] = Checks(dependencies)
        add_chain_routes(self._router, door, self)
        if self._services:
            self.bind(self._services)

    def add_runs(self) -> None:
        """Add the routes of the runs, unless they are there; the first chain adds them too."""
        if not self._has_runs:
            guard = self._services.auth.dependencies if self._services else []
            add_run_routes(self._router, self, [*guard, Depends(self.check)])
            self._has_runs = True

    async def __call__(self, app: Any) -> Services:
        """Return the services of the application that a request came to, once its runs are under way."""
        services = find_services(app) or _services_for(app)
        self.bind(services)
        await ensure_running(services)
        return services

    def bind(self, services: Services) -> None:
        """Make the chains known to an application, unless they are.

        Raises:
            ValueError: a graph needs another place for its checkpoints.
        """
        bound = (services.chains, len(self.doors))
        if self._bound is not None and self._bound[0] is bound[0] and self._bound[1] == bound[1]:
            return
        if services.runs.recovery is None:
            services.runs.recovery = Recovery(services.chains, services.checkpoints)
        for door in self.doors:
            self._bind(door, services)
        self._bound = bound

    def _bind(self, door: Door, services: Services) -> None:
        served, recovery = door.served, services.runs.recovery
        assert isinstance(recovery, Recovery)
        name = _free_name(served, services.chains)
        if name != served.served.name:
            served.served = replace(served.served, name=name)
        if served.graph is not None:
            services.checkpoints.adopt(served.graph)
        if not served.served.chain.share_sessions and (services.auth.knows_callers or not self._whole):
            keep_apart(served.histories, name, whole=self._whole)
        services.auth.require({name: served.served.chain.scopes})
        recovery.require(served)
        services.chains[name] = served
        door.recovery = recovery
        if self._services is None:
            door.late = Checks(services.auth.dependencies)

    async def check(self, request: Request) -> None:
        """Solve the dependencies of the chain that the run in the path belongs to.

        Raises:
            NotFound: the run belongs to a chain of another router, or does not exist.
        """
        if self._whole:  # no chain has dependencies of its own, and the run's chain may be gone
            return
        services = services_of(request)
        first = self.doors[0]
        await first.late(request)
        checks = self._checks[first]
        same = all(each.dependencies == checks.dependencies for each in self._checks.values())
        if same and len(services.chains) == len(self.doors):
            await checks(request)
            return
        record = await services.runs.store.get(request.path_params["run_id"])
        named = [door for door in self.doors if record and door.served.served.name == record.chain]
        await self._checks[named[0] if named else first](request)
        if not named:
            raise NotFound


def _free_name(served: ServedRunnable, taken: Mapping[str, Any]) -> str:
    # Routers with the same paths may be included under prefixes of their own.
    name, number = served.served.name, 1
    while taken.get(name, served) is not served:
        number += 1
        name = f"{served.served.name}-{number}"
    return name


def chains_on(app: FastAPI | APIRouter) -> Chains:
    """Return the chains of an application or router; none at first."""
    router = app.router if isinstance(app, FastAPI) else app
    for route in router.routes:
        if isinstance(route, ServedRoute) and isinstance(route.ready, Chains):
            return route.ready
    if isinstance(app, FastAPI):
        return Chains(router, _services_for(app))
    _live_with(router)
    return Chains(router, None)


def _services_for(app: Any) -> Services:
    if find_services(app) is None:
        configure(app)
    return services_in(app)


def _live_with(router: APIRouter) -> None:
    """Let the runs of an application start and end inside the lifespan of one of its routers."""
    before = router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        async with before(app) as state:
            services = _services_for(app)
            for route in routes_in(app.routes):
                if isinstance(route, ServedRoute) and isinstance(route.ready, Chains):
                    route.ready.bind(services)
            async with running(services):
                yield state

    router.lifespan_context = lifespan


def _record(runnable: Any, given: Mapping[str, tuple[Any, Any]]) -> Chain:
    said = {name: value for name, (value, default) in given.items() if value != default}
    if isinstance(runnable, Chain):
        if said:
            raise TypeError(f"add_routes: {', '.join(said)}: say it in the Chain")
        return runnable
    if not isinstance(runnable, Runnable):
        raise TypeError(f"Expected a Runnable, got {type(runnable)}")
    return Chain(
        runnable=runnable, **{"config_keys": ("configurable",), "playground": "default", "token_feedback": "", **said}
    )


def _key_of(config: Mapping[str, Any] | None) -> str:
    if not config:
        return ""
    keys = [each["key"] for each in config["key_configs"]]
    if len(keys) != 1:
        raise ValueError("token_feedback_config: one key")
    return str(keys[0])


def _entry(place: str, chain: Chain) -> RegisteredChain:
    return RegisteredChain(
        name=place.strip("/") or ROOT,
        module=__name__,
        file=f"add_routes at {place or '/'}",
        chain=chain,
        runnable=chain.build(),
        description=chain.description,
        place=place,
    )
