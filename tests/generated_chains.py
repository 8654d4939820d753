"""Generated chains of every kind of output: models, parsers, functions and generators in branches and maps."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import (
    CommaSeparatedListOutputParser,
    JsonOutputParser,
    PydanticOutputParser,
    StrOutputParser,
)
from langchain_core.runnables import (
    ConfigurableField,
    Runnable,
    RunnableBranch,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langchain_core.runnables.utils import AddableDict
from pydantic import BaseModel

from tests.streamed_chains import AsyncSayer


class Person(BaseModel):
    """A pydantic object that grows as it is parsed."""

    name: str = ""
    age: int = 0
    tags: list[str] = []
    friend: Person | None = None


class Tool(BaseModel):
    """An object that looks like a message of LangChain."""

    type: Literal["tool"] = "tool"
    name: str = "hammer"


@dataclass
class Point:
    """A dataclass that looks like a message of LangChain."""

    x: int
    type: str = "human"


words = st.text("ab, é\u2028", min_size=1, max_size=8)
scalars = st.none() | st.booleans() | st.integers(-9, 2000) | words
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
)
people = st.recursive(
    st.builds(Person, name=words, age=st.integers(0, 999), tags=st.lists(words, max_size=2), friend=st.none()),
    lambda friends: st.builds(Person, name=words, tags=st.lists(words, max_size=2), friend=friends),
    max_leaves=3,
)
unlike = (
    people
    | st.builds(Tool)
    | st.builds(Point, st.integers(0, 9))
    | st.binary(max_size=4)
    | st.builds(Document, words)
    | st.tuples(st.integers(), words)
)
# Two whole messages add up to a prompt.
objects = unlike | st.builds(AIMessage, words, id=st.just("m"))


def _cut(text: str, sizes: Sequence[int]) -> tuple[str, ...]:
    cuts = [0]
    for size in sizes:
        cuts.append(cuts[-1] + size)
    return tuple(text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True) if text[a:b]) or (text,)


sizes = st.lists(st.integers(1, 9), max_size=12)


def _says(text: str, cuts: Sequence[int]) -> Runnable[Any, Any]:
    return RunnableLambda(lambda _: "Hi") | AsyncSayer(says=_cut(text, cuts))


texts = st.builds(_says, words, sizes)
# In process, a JSON parser's stream has no chunk for `null`, and a list parser's stream ends items at quoted commas.
json_values = values.filter(lambda value: value is not None)
items = st.lists(st.text("abé", min_size=1), min_size=1)
json_texts = st.builds(lambda value, cuts: _says(json.dumps(value), cuts), json_values, sizes)
people_texts = st.builds(lambda person, cuts: _says(person.model_dump_json(), cuts), people, sizes)
item_texts = st.builds(lambda items, cuts: _says(", ".join(items), cuts), items, sizes)


def _function(value: Any) -> Runnable[Any, Any]:
    return RunnableLambda(lambda _: value)


def _generator(chunks: Sequence[Any]) -> Runnable[Any, Any]:
    async def generate(_: AsyncIterator[Any]) -> AsyncIterator[Any]:
        for chunk in chunks:
            yield chunk

    return RunnableGenerator(generate)


def _yielding(chunks: Sequence[Any]) -> Runnable[Any, Any]:
    async def generate(_: Any) -> AsyncIterator[Any]:
        for chunk in chunks:
            yield chunk

    return RunnableLambda(generate)


def _series(chunk: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(chunk, min_size=1, max_size=40)


addable = (
    _series(words)
    | _series(st.integers(0, 9))
    | _series(st.lists(scalars, max_size=2))
    | _series(st.binary(max_size=3))
    | _series(st.builds(AddableDict, st.dictionaries(st.sampled_from("ab"), words, max_size=2)))
)
# A generator's whole is a chunk, a model's is a message: where the chain streams either, their chunks look the same.
messages = _series(st.builds(AIMessageChunk, words, id=st.just("m")))
sources: st.SearchStrategy[Runnable[Any, Any]] = st.one_of(
    texts,
    texts.map(lambda chain: chain | StrOutputParser()),
    json_texts.map(lambda chain: chain | JsonOutputParser()),
    json_texts.map(lambda chain: chain | JsonOutputParser(diff=True)),
    people_texts.map(lambda chain: chain | PydanticOutputParser(pydantic_object=Person)),
    item_texts.map(lambda chain: chain | CommaSeparatedListOutputParser()),
    (values | objects).map(_function),
    addable.map(_generator),
    (addable | st.lists(unlike | values, min_size=1, max_size=4)).map(_yielding),
)


def _either(first: Runnable[Any, Any], second: Runnable[Any, Any], takes_first: bool) -> Runnable[Any, Any]:
    return RunnableBranch((lambda _: takes_first, first), second)


def _returned(first: Runnable[Any, Any], second: Runnable[Any, Any], takes_first: bool) -> Runnable[Any, Any]:
    return RunnableLambda(lambda _: first if takes_first else second)


def _after_failure(failing: Runnable[Any, Any], chain: Runnable[Any, Any]) -> Runnable[Any, Any]:
    return (AsyncSayer(says=(), fails=True) | failing).with_fallbacks([chain])


def _assigned(first: Runnable[Any, Any], second: Runnable[Any, Any]) -> Runnable[Any, Any]:
    return RunnableParallel(kept=first, replaced=first) | RunnablePassthrough.assign(
        replaced=RunnableLambda(len) | second
    )


def _chosen(first: Runnable[Any, Any], second: Runnable[Any, Any], takes_first: bool) -> Runnable[Any, Any]:
    chain = RunnablePassthrough[Any]() | first  # a function alone has no alternatives
    alternatives = chain.configurable_alternatives(ConfigurableField(id="which"), second=second)
    return alternatives.with_config(configurable={} if takes_first else {"which": "second"})


def _combined(inner: st.SearchStrategy[Runnable[Any, Any]]) -> st.SearchStrategy[Runnable[Any, Any]]:
    maps = st.builds(lambda one, two: RunnableParallel(one=one, two=two), inner, inner)
    wraps: list[Callable[[Any], Any]] = [
        lambda chain: chain | RunnablePassthrough(),
        lambda chain: chain.with_config(tags=["t"]),
        lambda chain: chain.with_retry(),
    ]
    return st.one_of(
        maps,
        maps.map(lambda chain: chain | RunnablePassthrough()),
        maps.map(lambda chain: chain.pick("one")),
        maps.map(lambda chain: chain.pick(["two"])),
        st.builds(_assigned, inner, inner),
        st.builds(_either, inner, inner, st.booleans()),
        st.builds(_returned, inner, inner, st.booleans()),
        st.builds(_chosen, inner, inner, st.booleans()),
        st.builds(_after_failure, inner, inner),
        st.builds(lambda chain, wrap: wrap(chain), inner, st.sampled_from(wraps)),
    )


chains: st.SearchStrategy[Runnable[Any, Any]] = st.one_of(
    st.recursive(sources, _combined, max_leaves=4), messages.map(_generator), messages.map(_yielding)
)
