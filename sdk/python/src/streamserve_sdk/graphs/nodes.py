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
from streamserve_sdk.graphs.threads import Threads
from streamserve_sdk.graphs.tokens import Tokens

# A chain that is no graph has no threads, and other servers do not know the path.
_NO_THREADS = (404, 405)
# As in process: a node's output is the last chunk, so a graph in a node streams its states.
_STATES = {"stream_mode": "values"}


class Nodes(Threads):
    """The part of RemoteRunnable that is a node of a local graph."""

    def _resumed(self, value: Any, config: RunnableConfig) -> Any:
        """Return the input of a call: the node's, or the answer for which the remote graph waits.

        Raises:
            GraphInterrupt: the remote graph still waits for its answer.
        """
        if thread := questions.resumed_thread(config):
            try:
                state = self.get_state(thread)
            except RequestRejected as error:
                self._check_no_graph(error)
            else:
                return questions.resumed(value, config, state)
        return value

    async def _aresumed(self, value: Any, config: RunnableConfig) -> Any:
        if thread := questions.resumed_thread(config):
            try:
                state = await self.aget_state(thread)
            except RequestRejected as error:
                self._check_no_graph(error)
            else:
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
                tokens.close()
                return self._client.output(session.run_id)
            except BaseException as error:
                tokens.fail(error)
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
                tokens.close()
                return await self._client.aoutput(session.run_id)
            except BaseException as error:
                tokens.fail(error)
                if not _refuses_mode(error):
                    raise
        return await self._client.acall("invoke", value, sent, kwargs)

    def _chunks(
        self, value: Any, config: RunnableConfig, kwargs: dict[str, Any], options: dict[str, Any]
    ) -> Generator[Any]:
        if not questions.in_node(config):
            return self._started(value, config, kwargs, options)
        if "stream_mode" not in kwargs and self._is_graph():
            kwargs = {**kwargs, **_STATES}
        return _asked(self._started(self._resumed(value, config), config, kwargs, options))

    def _achunks(
        self, value: Any, config: RunnableConfig, kwargs: dict[str, Any], options: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        if questions.in_node(config):
            return self._anode_chunks(value, config, kwargs, options)
        return self._astarted(value, config, kwargs, options)

    async def _anode_chunks(
        self, value: Any, config: RunnableConfig, kwargs: dict[str, Any], options: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        if "stream_mode" not in kwargs and await self._ais_graph():
            kwargs = {**kwargs, **_STATES}
        value, asked = await self._aresumed(value, config), Questions()
        async with aclosing(self._astarted(value, config, kwargs, options)) as chunks:
            async for chunk in chunks:
                asked.read(chunk)
                yield chunk
        asked.ask()

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

    def _is_graph(self) -> bool:
        if self._client.is_graph is None:
            try:
                self.get_state(_any_thread())
                self._client.is_graph = True
            except RequestRejected as error:
                self._check_no_graph(error)
        return self._client.is_graph is True

    async def _ais_graph(self) -> bool:
        if self._client.is_graph is None:
            try:
                await self.aget_state(_any_thread())
                self._client.is_graph = True
            except RequestRejected as error:
                self._check_no_graph(error)
        return self._client.is_graph is True

    def _check_no_graph(self, error: RequestRejected) -> None:
        if error.response.status_code not in _NO_THREADS:
            raise error
        self._client.is_graph = False


def output_in(config: RunnableConfig, output: Any) -> Any:
    """Return the output of a call.

    Raises:
        GraphInterrupt: a node of a local graph made the call, and the remote graph asks.
    """
    if questions.in_node(config):
        asked = Questions()
        asked.read_output(output)
        asked.ask()
    return output


# The questions are asked at the end: branches beside the one that asks go on until then.
def _asked(chunks: Generator[Any]) -> Generator[Any]:
    asked = Questions()
    with closing(chunks):
        for chunk in chunks:
            asked.read(chunk)
            yield chunk
    asked.ask()


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
