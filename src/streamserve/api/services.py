"""The services of an application: one typed record, the only value in `app.state`."""

from asyncio import AbstractEventLoop, Future
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import FastAPI, Request

from streamserve.auth import Auth
from streamserve.call import Call
from streamserve.catalog.chain import Chain
from streamserve.graphs.checkpoints import Checkpoints
from streamserve.http.intake import Incoming
from streamserve.runs.runs import Runs
from streamserve.settings import Settings


class Admission(Protocol):
    """Bounds what one caller may ask of a chain, and what a worker takes on."""

    async def admit(self, request: Request, name: str, chain: Chain, *, starts_run: bool) -> None:
        """Count a request, and take a place for its run; raise if the caller or the worker has too many."""

    def spread(self, call: Call, chain: Chain, items: int, busy: int) -> int:
        """Take a place for each item of a batch, as far as there are; return how many places it has."""

    async def close(self) -> None:
        """Close the connections of the counter."""


class Instruments(Protocol):
    """Metrics and traces of an application."""

    def measuring(self, runs: Runs) -> AbstractAsyncContextManager[None]:
        """Return a context in which the runs and the event loop are measured."""


@dataclass(frozen=True, slots=True)
class Services:
    """The services of one application.

    Args:
        chains: the runnables that are served, by the names of their chains.
        loops: the event loops in which the runs are under way; each future is done once the stores are open.
    """

    settings: Settings
    runs: Runs
    auth: Auth
    limits: Admission
    checkpoints: Checkpoints
    telemetry: Instruments
    chains: dict[str, Any] = field(default_factory=dict)
    loops: dict[AbstractEventLoop, Future[None]] = field(default_factory=dict)
    incoming: Incoming = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "incoming", Incoming(self.settings.max_incoming_bytes))


def install(app: FastAPI, services: Services) -> None:
    """Give an application its services, in place of those that it had."""
    app.state.streamserve = services


def services_in(app: FastAPI) -> Services:
    """Return the services of an application."""
    found = app.state.streamserve
    assert isinstance(found, Services)
    return found


def find_services(app: FastAPI) -> Services | None:
    """Return the services of an application, or None if it has none."""
    return getattr(app.state, "streamserve", None)


def services_of(request: Request) -> Services:
    """Return the services of the application that a request came to."""
    return services_in(request.app)
