"""The answers of /invoke and /batch are the same bytes as those of the declared chain."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnablePassthrough

from streamserve.lcel.recorder import ID
from streamserve.wire.serializer import to_line
from tests.generated_chains import chains, words
from tests.runs.support import app_of, client_of
from tests.streamed_chains import CASES, AsyncSayer, Sayer

pytestmark = pytest.mark.filterwarnings(  # of message histories, which chains still have
    "ignore::langchain_core._api.deprecation.LangChainDeprecationWarning"
)

Answer = tuple[int, bytes]
Bodies = Mapping[str, tuple[str, Any]]


@contextmanager
def both(runnables: Mapping[str, Runnable[Any, Any]]) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Serve chains as declared, and as usual; yield a client of each."""
    with patch("streamserve.serving.served.fast", lambda chain: chain):
        declared = app_of(dict(runnables))
    with client_of(declared) as slow, client_of(app_of(dict(runnables))) as quick:
        yield slow, quick


def answers(client: httpx.Client, name: str, value: Any) -> list[Answer]:
    """Return status and body of a call, of a batch, and of a batch whose errors are results; all ids alike."""
    batch = {"inputs": [value, value]}
    return [
        _answer(client, f"/{name}/invoke", {"input": value}),
        _answer(client, f"/{name}/batch", batch),
        _answer(client, f"/{name}/batch", {**batch, "kwargs": {"return_exceptions": True}}),
    ]


def _answer(client: httpx.Client, path: str, body: Any) -> Answer:
    answer = client.post(path, content=to_line(body), headers={"Content-Type": "application/json"})
    return answer.status_code, re.sub(ID.pattern.encode(), b"id", answer.content)


# A config is of a server's own making.
served = {name: case for name, case in CASES.items() if not case.config}


@pytest.fixture(scope="module")
def clients() -> Iterator[tuple[httpx.Client, httpx.Client]]:
    with both({f"chain-{number}": case.make() for number, case in enumerate(served.values())}) as found:
        yield found


@pytest.mark.parametrize("name", served)
def test_a_chain_answers_with_the_bytes_of_the_declared_one(
    clients: tuple[httpx.Client, httpx.Client], name: str
) -> None:
    number = list(served).index(name)
    declared, quick = (answers(client, f"chain-{number}", copy.deepcopy(served[name].value)) for client in clients)
    assert quick == declared


_models = st.builds(AsyncSayer, says=st.lists(words, max_size=5).map(tuple), fails=st.booleans()) | st.builds(
    Sayer, says=st.lists(st.builds(AIMessageChunk, words, id=words), min_size=1, max_size=3).map(tuple)
)
_prompts = st.builds(
    lambda system: ChatPromptTemplate.from_messages([("system", system), AIMessage("Well"), ("human", "{topic}")]),
    words.filter(lambda text: "{" not in text and "}" not in text),
)
_quick = st.builds(
    lambda prompt, model, stop, ends: prompt | (model.bind(stop=stop) if stop else model) | ends,
    _prompts,
    _models,
    st.lists(words, max_size=2),
    st.sampled_from([StrOutputParser(), StrOutputParser() | StrOutputParser(), RunnablePassthrough()]),
)


@given(st.lists(_quick, min_size=20, max_size=20))
@settings(max_examples=4, deadline=None)
def test_chains_of_quick_steps_answer_with_the_same_bytes(made: list[Runnable[Any, Any]]) -> None:
    _compare(made, {"topic": "cats"})


@given(st.lists(chains, min_size=20, max_size=20))
@settings(max_examples=3, deadline=None)
def test_chains_of_all_kinds_answer_with_the_same_bytes(made: list[Runnable[Any, Any]]) -> None:
    _compare(made, "Hi")


def _compare(made: list[Runnable[Any, Any]], value: Any) -> None:
    named = {f"chain-{number}": chain for number, chain in enumerate(made)}
    with both(named) as (declared, quick):
        for name in named:
            assert answers(quick, name, value) == answers(declared, name, value)
