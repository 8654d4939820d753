"""The calls of RemoteRunnable; in a node of a local graph, the remote graph interrupts it and resumes with it."""

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from typing import Any
from uuid import uuid4

import httpx
from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.runnables.config import RunnableConfig

from streamserve_sdk.codec import payload, shapes
from streamserve_sdk.codec.payload import Answer
from streamserve_sdk.errors import RequestRejected
from streamserve_sdk.graphs import questions
from streamserve_sdk.graphs.questions import Questions
from streamserve_sdk.graphs.snapshots import StateSnapshot
from streamserve_sdk.graphs.threads import Threads
from streamserve_sdk.graphs.tokens import Tokens

# A chain that is no graph has no threads, and other servers do not know the path.
_NO_THREADS = (404, 405)
# As in process: a node's output is the last chunk, so a graph in a node streams its states.
_STATES = {"stream_mode": "values"}
_BOTH = ["values", "messages"]


class Nodes(Threads):
    """The part of RemoteRunnable that is a node of a local graph."""

    def _resumed(self, value: Any, config: RunnableConfig) -> Any:
        """Return the input of a call: the node's, or the answer for which the remote graph waits.

        Raises:
            GraphInterrupt: the remote graph still waits for its answer.
        """
        if (thread := questions.resumed_thread(config)) and (state := self._state(thread)):
            return questions.resumed(value, config, state)
        return value

    async def _aresumed(self, value: Any, config: RunnableConfig) -> Any:
        if (thread := questions.resumed_thread(config)) and (state := await self._astate(thread)):
            return questions.resumed(value, config, state)
        return value

    def _answer(self, value: Any, config: RunnableConfig, run: BaseRunManager, kwargs: dict[str, Any]) -> Answer:
        """Return the answer of `invoke`; a local graph that streams messages gets those of the remote graph."""
        sent, tokens, value = payload.of_caller(config, run), Tokens(run), self._resumed(value, config)
        if _streams(tokens, config, kwargs) and self._is_graph():
            session = self._client.start("stream", value, sent, _messages(kwargs, tokens))
            try:
                with closing(self._client.chunks(session, shapes.as_is)) as chunks:
                    for chunk in chunks:
                        tokens.take(chunk)
                        tokens.send()
                tokens.close()
                tokens.send()
                return self._client.output(session.run_id)
            except BaseException as error:
                tokens.fail(error)
                tokens.send()
                if not _refuses_mode(error):
                    raise
        return self._client.call("invoke", value, sent, kwargs)

    async def _aanswer(self, value: Any, config: RunnableConfig, run: BaseRunManager, kwargs: dict[str, Any]) -> Answer:
        sent, tokens, value = payload.of_caller(config, run), Tokens(run), await self._aresumed(value, config)
        if _streams(tokens, config, kwargs) and await self._ais_graph():
            session = self._client.start("stream", value, sent, _messages(kwargs, tokens))
            try:
                async with aclosing(self._client.achunks(session, shapes.as_is)) as chunks:
                    async for chunk in chunks:
                        tokens.take(chunk)
                        await tokens.asend()
                tokens.close()
                await tokens.asend()
                return await self._client.aoutput(session.run_id)
            except BaseException as error:
                tokens.fail(error)
                await tokens.asend()
                if not _refuses_mode(error):
                    raise
        return await self._client.acall("invoke", value, sent, kwargs)

    def _chunks(
        self, value: Any, config: RunnableConfig, run: BaseRunManager, kwargs: dict[str, Any], options: dict[str, Any]
    ) -> Generator[Any]:
        if questions.in_node(config):
            return self._node_chunks(value, config, run, kwargs, options)
        return self._started(value, config, kwargs, options)

    def _achunks(
        self, value: Any, config: RunnableConfig, run: BaseRunManager, kwargs: dict[str, Any], options: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        if questions.in_node(config):
            return self._anode_chunks(value, config, run, kwargs, options)
        return self._astarted(value, config, kwargs, options)

    # The questions are asked at the end: branches beside the one that asks go on until then.
    def _node_chunks(
        self, value: Any, config: RunnableConfig, run: BaseRunManager, kwargs: dict[str, Any], options: dict[str, Any]
    ) -> Generator[Any]:
        is_own = "stream_mode" in kwargs or not self._is_graph()
        value, asked = self._resumed(value, config), Questions()
        chunks = (
            self._started(value, config, kwargs, options)
            if is_own
            else self._states(value, config, Tokens(run), kwargs, options)
        )
        with closing(chunks):
            for chunk in chunks:
                asked.read(chunk)
                yield chunk
        asked.ask()
        self._stop(config)

    async def _anode_chunks(
        self, value: Any, config: RunnableConfig, run: BaseRunManager, kwargs: dict[str, Any], options: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        is_own = "stream_mode" in kwargs or not await self._ais_graph()
        value, asked = await self._aresumed(value, config), Questions()
        chunks = (
            self._astarted(value, config, kwargs, options)
            if is_own
            else self._astates(value, config, Tokens(run), kwargs, options)
        )
        async with aclosing(chunks):
            async for chunk in chunks:
                asked.read(chunk)
                yield chunk
        asked.ask()
        await self._astop(config)

    def _states(
        self, value: Any, config: RunnableConfig, tokens: Tokens, kwargs: dict[str, Any], options: dict[str, Any]
    ) -> Generator[Any]:
        """Yield the states of a graph, and report its messages to a local graph that streams them."""
        if tokens.are_read and not shapes.has_graph_form(kwargs):
            both = {**kwargs, "stream_mode": _BOTH, "subgraphs": tokens.subgraphs}
            try:
                with closing(self._started(value, config, both, options)) as chunks:
                    for chunk in chunks:
                        state = tokens.split(chunk)
                        tokens.send()
                        if state is not None:
                            yield state
                tokens.close()
                tokens.send()
                return
            except BaseException as error:
                tokens.fail(error)
                tokens.send()
                if not _refuses_mode(error):
                    raise
        yield from self._started(value, config, {**kwargs, **_STATES}, options)

    async def _astates(
        self, value: Any, config: RunnableConfig, tokens: Tokens, kwargs: dict[str, Any], options: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        if tokens.are_read and not shapes.has_graph_form(kwargs):
            both = {**kwargs, "stream_mode": _BOTH, "subgraphs": tokens.subgraphs}
            try:
                async with aclosing(self._astarted(value, config, both, options)) as chunks:
                    async for chunk in chunks:
                        state = tokens.split(chunk)
                        await tokens.asend()
                        if state is not None:
                            yield state
                tokens.close()
                await tokens.asend()
                return
            except BaseException as error:
                tokens.fail(error)
                await tokens.asend()
                if not _refuses_mode(error):
                    raise
        async with aclosing(self._astarted(value, config, {**kwargs, **_STATES}, options)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _started(
        self, value: Any, config: RunnableConfig, kwargs: dict[str, Any], options: dict[str, Any]
    ) -> Generator[Any]:
        session = self._client.start("stream", value, config, kwargs, **options)
        return self._client.chunks(session, shapes.chunk_shape(kwargs))

    def _astarted(
        self, value: Any, config: RunnableConfig, kwargs: dict[str, Any], options: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        session = self._client.start("stream", value, config, kwargs, **options)
        return self._client.achunks(session, shapes.chunk_shape(kwargs))

    def _ask(self, output: Any, config: RunnableConfig) -> None:
        """Interrupt the local graph, if a node of one made the call, and the remote graph asks or has stopped.

        Raises:
            GraphInterrupt: so it is.
        """
        if questions.in_node(config):
            questions.of_output(output).ask()
            self._stop(config)

    async def _aask(self, output: Any, config: RunnableConfig) -> None:
        if questions.in_node(config):
            questions.of_output(output).ask()
            await self._astop(config)

    # Neither an output nor a state tells that a run has stopped at a breakpoint.
    def _stop(self, config: RunnableConfig) -> None:
        if (thread := questions.thread_of(config)) and (state := self._state(thread)):
            questions.stop_at_breakpoint(state)

    async def _astop(self, config: RunnableConfig) -> None:
        if (thread := questions.thread_of(config)) and (state := await self._astate(thread)):
            questions.stop_at_breakpoint(state)

    def _is_graph(self) -> bool:
        if self._client.is_graph is None:
            self._state(_any_thread())
        return self._client.is_graph is True

    async def _ais_graph(self) -> bool:
        if self._client.is_graph is None:
            await self._astate(_any_thread())
        return self._client.is_graph is True

    def _state(self, thread: RunnableConfig) -> StateSnapshot | None:
        """Return the state of a thread, or None if the chain is no graph."""
        if self._client.is_graph is False:
            return None
        try:
            state = self.get_state(thread)
        except RequestRejected as error:
            self._check_no_graph(error)
            return None
        self._client.is_graph = True
        return state

    async def _astate(self, thread: RunnableConfig) -> StateSnapshot | None:
        if self._client.is_graph is False:
            return None
        try:
            state = await self.aget_state(thread)
        except RequestRejected as error:
            self._check_no_graph(error)
            return None
        self._client.is_graph = True
        return state

    def _check_no_graph(self, error: RequestRejected) -> None:
        if error.response.status_code not in _NO_THREADS:
            raise error
        self._client.is_graph = False


# A graph answers for a thread that does not exist, too; other chains do not know the path.
def _any_thread() -> RunnableConfig:
    return {"configurable": {"thread_id": str(uuid4())}}


def _streams(tokens: Tokens, config: RunnableConfig, kwargs: dict[str, Any]) -> bool:
    return questions.in_node(config) and tokens.are_read and not shapes.has_graph_form(kwargs)


def _messages(kwargs: dict[str, Any], tokens: Tokens) -> dict[str, Any]:
    return {**kwargs, "stream_mode": "messages", "subgraphs": tokens.subgraphs}


# A chain's record can hide the messages; any other mistake of the call is refused a second time.
def _refuses_mode(error: BaseException) -> bool:
    return isinstance(error, RequestRejected) and error.response.status_code == httpx.codes.UNPROCESSABLE_ENTITY
