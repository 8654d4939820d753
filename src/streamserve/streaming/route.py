"""The route class given to LangServe's router: checks the body, and turns every failure into a typed answer.

An exception that left the application would make uvicorn close the keep-alive connection, and the caller's next
request on it would fail.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import ValidationError

from streamserve.body import ChainRequest, check_shape, locate, read_kwargs
from streamserve.errors import Internal, InvalidOutput, ServeError, classify
from streamserve.served import Call, ServedRunnable, current_call

logger = logging.getLogger(__name__)

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

# The field that the body of each endpoint must have.
REQUIRED = {
    "invoke": "input",
    "batch": "inputs",
    "stream": "input",
    "stream_log": "input",
    "stream_events": "input",
}


class RunRoute(APIRoute):
    """One route of one chain."""

    served: ClassVar[ServedRunnable]

    @classmethod
    def of(cls, served: ServedRunnable) -> type[RunRoute]:
        """The route class for the router of a chain."""
        return type("RunRoute", (cls,), {"served": served})

    def get_route_handler(self) -> Handler:
        """FastAPI's hook: LangServe's handler with ours around it."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            request = ChainRequest(request.scope, request.receive)
            call = Call()
            # Not reset: the stream is iterated after this returns, in a context that is the request's own.
            current_call.set(call)
            try:
                await self._check(request, call)
                return await handler(request)
            except HTTPException:
                raise
            except Exception as error:
                return answer(await self._explain(request, call, error))

        return handle

    @property
    def endpoint_name(self) -> str:
        """The last part of the path: invoke, stream, ..."""
        return self.path.rpartition("/")[2]

    async def _check(self, request: Request, call: Call) -> None:
        required = REQUIRED.get(self.endpoint_name) if request.method == "POST" else None
        if required:
            body = check_shape(await request.json(), required)
            call.kwargs = read_kwargs(body, self.served.served.chain, self.served.graph is not None)

    async def _explain(self, request: Request, call: Call, error: Exception) -> ServeError:
        if call.phase == "input":
            return await self._explain_input(request, error)
        shown = classify(error)
        if call.phase == "output" and isinstance(error, ValidationError):
            shown = InvalidOutput()
        logger.error("%s failed: %s", self.path, shown.code, exc_info=error)
        return shown

    async def _explain_input(self, request: Request, error: Exception) -> ServeError:
        if isinstance(error, ServeError):
            return error
        place = None
        if request.method == "POST":
            place = locate(await request.json(), self.served.input_schema, self._config_model())
        if place is None and not isinstance(error, RequestValidationError):
            logger.error("%s failed before its chain ran", self.path, exc_info=error)
            return Internal()
        if place is None and isinstance(error, RequestValidationError):
            raise error
        assert place is not None
        return place

    def _config_model(self) -> Any:
        return self.served.config_schema(include=["configurable"])


def answer(error: ServeError, run_id: str | None = None) -> JSONResponse:
    """The JSON answer for an error."""
    return JSONResponse(error.body(run_id), status_code=error.status)
