"""A team's application, written for LangServe: only the import of `add_routes` says which library serves its chains."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware
from langchain_core.runnables import RunnableConfig, RunnableGenerator, RunnableLambda
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware  # noqa: TID251 - teams use it

TOKENS = {"token-of-ann": "ann", "token-of-bob": "bob"}
ORIGIN = "https://app.example.com"
CORS = ("allow_methods", "allow_headers", "expose_headers")


class Question(BaseModel):
    """The input of the chain."""

    text: str


async def current_user(request: Request, authorization: Annotated[str, Header()] = "") -> str:
    """Return the caller of a request, and refuse others."""
    name = TOKENS.get(authorization.removeprefix("Bearer "))
    if name is None:
        raise HTTPException(401, "Who are you?", {"WWW-Authenticate": "Bearer"})
    request.state.principal = name
    return name


def for_tenant(config: dict[str, Any], request: Request) -> dict[str, Any]:
    """Give the chain the tenant of a request: LangServe's `per_req_config_modifier`."""
    configurable = {**config.get("configurable", {}), "tenant": request.headers.get("X-Tenant", "none")}
    return {**config, "configurable": configurable}


class Timed(BaseHTTPMiddleware):
    """Adds a header to each answer."""

    async def dispatch(self, request: Request, call_next: Callable[..., Any]) -> Any:
        """Answer, and say which process did."""
        response = await call_next(request)
        response.headers["X-Process"] = str(os.getpid())
        return response


class State:
    """The values that the chains of one application share, as a team's modules have them."""

    def __init__(self) -> None:
        self.greeting = ""

    async def words(self, questions: AsyncIterator[Any], config: RunnableConfig) -> AsyncIterator[str]:
        """Greet, with the tenant of the request."""
        tenant = (config.get("configurable") or {}).get("tenant")
        async for question in questions:
            text = question["text"] if isinstance(question, dict) else question.text
            for word in (self.greeting, " ", text, " of ", str(tenant)):
                yield word

    async def count(self, numbers: AsyncIterator[int]) -> AsyncIterator[str]:
        """Count up to a number; from 1000 on, wait there for ever."""
        async for number in numbers:
            for count in range(number % 1000):
                yield str(count)
            if number >= 1000:
                await asyncio.Event().wait()


def fail(_given: str) -> str:
    """Fail with a text that no caller may see."""
    raise ValueError("a secret of the team")


def make_app(add_routes: Callable[..., None], state: State, **feedback: Any) -> FastAPI:
    """Return the application, whose chains `add_routes` serves."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        state.greeting = "Hello"
        yield {"opened": True}
        state.greeting = ""

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(CORSMiddleware, allow_origins=[ORIGIN], **{name: ["*"] for name in CORS})
    app.add_middleware(Timed)
    router = APIRouter(prefix="/v1", dependencies=[Depends(current_user)])
    hello = RunnableGenerator(state.words).with_types(input_type=Question, output_type=str)
    options = {"per_req_config_modifier": for_tenant, "disabled_endpoints": ["batch"], **feedback}
    add_routes(router, hello, path="/hello", **options)
    add_routes(router, RunnableLambda(fail), path="/failing")
    add_routes(router, RunnableGenerator(state.count).with_types(input_type=int), path="/count")
    answer = RunnableLambda(lambda text: f"{text}!").with_types(input_type=str)
    add_routes(app, answer, path="/open", enabled_endpoints=["invoke", "input_schema"])

    @router.get("/whoami")
    async def whoami(user: Annotated[str, Depends(current_user)]) -> dict[str, str]:
        return {"user": user}

    @app.get("/ping")
    async def ping(request: Request) -> dict[str, Any]:
        return {"opened": getattr(request.state, "opened", False), "said": await answer.ainvoke("hi")}

    app.include_router(router, prefix="/api")
    return app
