"""The threads of a graph under `{path}/threads/{thread_id}`: state, update, history, delete.

The paths are those of LangGraph's server, so that its clients work here.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response, params
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from pydantic import BaseModel
from starlette.convertors import PathConvertor, register_url_convertor

from streamserve.api.services import services_of
from streamserve.api.threads.history import encoded, page_answer, read_page
from streamserve.api.threads.requests import (
    DEFAULT_PAGE,
    Checkpoint,
    HistorySearch,
    Name,
    Page,
    StateAt,
    StateUpdate,
    Text,
    read,
)
from streamserve.api.threads.states import ThreadState, ThreadUpdate, checkpoint_of
from streamserve.api.threads.updates import Updates
from streamserve.call import Call, current_call
from streamserve.errors import ServeError, UnknownCheckpoint, UnknownThread
from streamserve.graphs.graph import Graph
from streamserve.http.body import ChainRequest, off_loop
from streamserve.runs.thread_lock import of_call
from streamserve.wire.serializer import to_line

ThreadId = Annotated[Name, Path(description="The thread, as in `configurable.thread_id`.")]
Subgraphs = Annotated[bool, Query(description="Include the states of interrupted subgraphs.")]
Namespace = Annotated[Text, Query(description="The namespace of a subgraph. Default: the graph itself.")]
AtCheckpoint = Annotated[Text | None, Query(description="The id of the checkpoint. Default: the latest.")]


class ErrorBody(BaseModel):
    """The shape of every error, for the documentation of the API."""

    detail: Any
    code: str
    retryable: bool
    run_id: str | None


def _error(description: str) -> dict[str, Any]:
    return {"model": ErrorBody, "description": description}


UNKNOWN: dict[int | str, dict[str, Any]] = {404: _error("No such thread or checkpoint, or not the caller's")}
INVALID: dict[int | str, dict[str, Any]] = {422: _error("The request is invalid; the place is in `detail`")}
BUSY: dict[int | str, dict[str, Any]] = {409: _error("A run of the thread is live")}
DOWN: dict[int | str, dict[str, Any]] = {503: _error("The store of the runs is unreachable")}
STATE: dict[int | str, dict[str, Any]] = {200: {"model": ThreadState}, **UNKNOWN, **INVALID}
HISTORY: dict[int | str, dict[str, Any]] = {200: {"model": list[ThreadState]}, **UNKNOWN, **INVALID}
UPDATED: dict[int | str, dict[str, Any]] = {200: {"model": ThreadUpdate}, **UNKNOWN, **BUSY, **INVALID, **DOWN}
DELETED: dict[int | str, dict[str, Any]] = {204: {}, **UNKNOWN, **BUSY, **INVALID, **DOWN}


class _AnyText(PathConvertor):
    """A part of a path with slashes, as `path`, and with line breaks: the id of a thread is any text."""

    regex = r"(?s:.*)"


register_url_convertor("any_text", _AnyText())


def add_thread_routes(
    router: APIRouter, path: str, name: str, graph: Graph | None, dependencies: Sequence[params.Depends] = ()
) -> None:
    """Add the routes below a path if the chain is a graph with a checkpointer."""
    if graph is None or not isinstance(graph.checkpointer, BaseCheckpointSaver):
        return
    api = ThreadsApi(graph)
    thread = f"{path}/threads/{{thread_id:any_text}}"
    for method, part, endpoint, summary, responses, body in (
        ("GET", "/state", api.state, "State of a thread", STATE, None),
        ("POST", "/state/checkpoint", api.state_at, "State at a checkpoint, named in the body", STATE, StateAt),
        ("GET", "/state/{checkpoint_id}", api.state_of, "State at a checkpoint", STATE, None),
        ("POST", "/state", api.update, "Update the state", UPDATED, StateUpdate),
        ("GET", "/history", api.history, "Past states, latest first", HISTORY, None),
        ("POST", "/history", api.search, "Past states, by metadata or of a subgraph", HISTORY, HistorySearch),
        ("DELETE", "", api.delete, "Delete a thread", DELETED, None),
    ):
        router.add_api_route(
            f"{thread}{part}",
            endpoint,
            methods=[method],
            dependencies=list(dependencies),
            tags=[name],
            name=f"{name} {endpoint.__name__} of thread",
            summary=summary,
            status_code=204 if method == "DELETE" else 200,
            response_model=None,
            responses=responses,
            openapi_extra=_body_of(body) if body else None,
        )


def _body_of(model: type[BaseModel]) -> dict[str, Any]:
    # Declared here only: FastAPI's own parser would answer malformed JSON in another form than the chains' endpoints.
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(schema)}}}}


def _inlined(node: Any, definitions: dict[str, Any] | None = None) -> Any:
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    definitions = definitions if definitions is not None else node.get("$defs", {})
    if "$ref" in node:
        return _inlined(definitions[node["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in node.items() if key != "$defs"}


class ThreadsApi:
    """The endpoints of one graph's threads."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._updates = Updates(graph)

    async def state(
        self,
        thread_id: ThreadId,
        subgraphs: Subgraphs = False,
        checkpoint_id: AtCheckpoint = None,
        checkpoint_ns: Namespace = "",
    ) -> Response:
        """Return the latest state, or the state at a checkpoint."""
        place = Checkpoint(checkpoint_id=checkpoint_id or None, checkpoint_ns=checkpoint_ns)
        return await self._state(place.config(thread_id), subgraphs)

    async def state_of(self, thread_id: ThreadId, checkpoint_id: Name, subgraphs: Subgraphs = False) -> Response:
        """Return the state at a checkpoint."""
        return await self._state(Checkpoint(checkpoint_id=checkpoint_id).config(thread_id), subgraphs)

    async def state_at(self, thread_id: ThreadId, request: ChainRequest) -> Response:
        """Return the state at a checkpoint, which may belong to a subgraph."""
        body = await read(request, StateAt, thread_id)
        return await self._state(body.checkpoint.config(thread_id), body.subgraphs)

    async def update(self, thread_id: ThreadId, request: ChainRequest) -> Response:
        """Write values as if a node had returned them, and return the new checkpoint.

        An update from an older checkpoint makes a fork. An unknown thread starts with the update.
        """
        body = await read(request, StateUpdate, thread_id)
        async with self._exclusive(thread_id, request):
            if body.place.checkpoint_id or body.place.checkpoint_ns:
                await self._require(body.place.config(thread_id))
            config = await self._updates.apply(request, body, thread_id)
        return _json(to_line({"checkpoint": checkpoint_of(config)}))

    async def history(
        self,
        thread_id: ThreadId,
        limit: Annotated[Page, Query()] = DEFAULT_PAGE,
        before: Annotated[Text | None, Query(description="Only states before this checkpoint.")] = None,
        checkpoint_ns: Namespace = "",
    ) -> Response:
        """Return states, latest first; the last one of a page is the `before` of the next."""
        place = Checkpoint(checkpoint_ns=checkpoint_ns)
        search = HistorySearch(limit=limit, before=before or None, checkpoint=place)
        return await self._history(search, thread_id, "query")

    async def search(self, thread_id: ThreadId, request: ChainRequest) -> Response:
        """Return states with the given metadata or of a subgraph, latest first."""
        return await self._history(await read(request, HistorySearch, thread_id), thread_id, "body")

    async def delete(self, thread_id: ThreadId, request: ChainRequest) -> Response:
        """Delete all checkpoints of a thread."""
        async with self._exclusive(thread_id, request):
            await self._require(Checkpoint().config(thread_id))
            await self._saver.adelete_thread(thread_id)
        return Response(status_code=204)

    @property
    def _saver(self) -> BaseCheckpointSaver[Any]:
        saver = self._graph.checkpointer
        assert isinstance(saver, BaseCheckpointSaver)
        return saver

    async def _state(self, config: RunnableConfig, subgraphs: bool) -> Response:
        with _chain_phase():
            snapshot = await self._graph.aget_state(config, subgraphs=subgraphs)
            if snapshot.created_at is None:
                await self._require(config)
            return _json(await off_loop(encoded, snapshot))

    async def _history(self, search: HistorySearch, thread_id: str, source: Literal["query", "body"]) -> Response:
        config = (search.checkpoint or Checkpoint()).config(thread_id)
        with _chain_phase():
            states = await read_page(self._graph, search, config, source)
            if not states:
                await self._require(config)
            return page_answer(states)

    async def _require(self, config: RunnableConfig) -> None:
        if await self._saver.aget_tuple(config) is not None:
            return
        thread = await self._saver.aget_tuple(Checkpoint().config(config["configurable"]["thread_id"]))
        raise UnknownThread() if thread is None else UnknownCheckpoint()

    @asynccontextmanager
    async def _exclusive(self, thread_id: str, request: Request) -> AsyncIterator[None]:
        # Keeps runs of all processes off the thread; raises ThreadBusy if one has it.
        call = current_call.get() or Call()
        with _chain_phase():
            async with of_call(services_of(request).runs, call, "threads", "reject")(thread_id, call.run_id):
                yield


@contextmanager
def _chain_phase() -> Iterator[None]:
    # An error here is the graph's or the server's fault, except a ServeError that blames the caller.
    try:
        yield
    except BaseException as error:
        call = current_call.get()
        if call and not (isinstance(error, ServeError) and error.status < 500):
            call.phase = "chain"
        raise


def _json(line: bytes) -> Response:
    return Response(line, media_type="application/json")
