"""The Chain record."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel

from streamserve import Chain
from streamserve.catalog.chain import InvalidChain
from streamserve.serving.chains import serve
from tests.fakes import Conversation, Topic, echo, echo_graph, registered


class Other(BaseModel):
    text: str


def a_runnable() -> RunnableLambda[Any, Any]:
    return RunnableLambda(echo)


def test_a_runnable_alone_is_a_chain() -> None:
    assert Chain(runnable=a_runnable()).build().invoke({"topic": "cats"}) == "cats"


def test_a_function_makes_the_runnable_at_the_build() -> None:
    made: list[int] = []

    def make() -> RunnableLambda[Any, Any]:
        made.append(1)
        return a_runnable()

    chain = Chain(runnable=make)
    assert not made
    assert chain.build().invoke({"topic": "cats"}) == "cats"
    assert len(made) == 1


def test_declared_types_are_the_schemas() -> None:
    served = serve(registered("typed", Chain(runnable=a_runnable(), input_type=Topic, output_type=Other)))
    assert set(served.get_input_jsonschema()["properties"]) == {"topic"}
    assert set(served.get_output_jsonschema()["properties"]) == {"text"}


def test_a_graph_with_a_declared_input_type_remains_a_graph() -> None:
    served = serve(registered("bot", Chain(runnable=echo_graph(), input_type=Conversation)))
    assert served.graph is not None
    assert set(served.get_input_jsonschema()["properties"]) == {"messages"}


def test_a_graph_stays_a_graph() -> None:
    graph = echo_graph()
    assert Chain(runnable=graph).build() is graph


def test_a_chain_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Chain(runnable=a_runnable()).tags = ["new"]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"runnable": 3}, "runnable: a Runnable or a function that makes one, not int"),
        ({"playground": "fancy"}, "playground: 'default', 'chat' or None, not 'fancy'"),
        ({"tags": "one"}, "tags: a list of texts"),
        ({"examples": {"topic": "cats"}}, "examples: a list of inputs"),
        ({"examples": 3}, "examples: a list of inputs"),
        ({"stream_modes": ["values", "nope"]}, "stream_modes: unknown or empty: ['nope']"),
        ({"stream_modes": []}, "stream_modes: unknown or empty"),
        ({"stream_modes": "values"}, "stream_modes: "),
        ({"enabled_endpoints": ["meow", "invoke"]}, "enabled_endpoints: unknown: ['meow']; known: invoke, batch, "),
        ({"disabled_endpoints": ["meow"]}, "disabled_endpoints: unknown: ['meow']; known: invoke, batch, "),
        ({"disabled_endpoints": "invoke"}, "disabled_endpoints: a list of names, not 'invoke'"),
        ({"enabled_endpoints": 3}, "enabled_endpoints: a list of names, not 3"),
        ({"enabled_endpoints": [3]}, "enabled_endpoints: a list of names, not [3]"),
        (
            {"enabled_endpoints": ["invoke"], "disabled_endpoints": ["batch"]},
            "enabled_endpoints: not together with disabled_endpoints",
        ),
        ({"serializer": str}, "serializer: an object with a method `dumps`"),
        ({"stream_log_name_allow_list": "model"}, "stream_log_name_allow_list: a list of texts"),
    ],
)
def test_a_field_that_does_not_fit_is_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidChain) as raised:
        Chain(**{"runnable": a_runnable(), **fields})
    assert message in str(raised.value)


@pytest.mark.parametrize("caught", [ValueError, TypeError])
def test_an_unknown_endpoint_is_langserves_value_error_too(caught: type[Exception]) -> None:
    unknown: Any = ["meow"]
    with pytest.raises(caught, match="unknown: "):
        Chain(runnable=a_runnable(), enabled_endpoints=unknown)


def test_an_invalid_example_is_refused_with_number_and_field() -> None:
    chain = Chain(runnable=a_runnable(), input_type=Topic, examples=[{"topic": "cats"}, {"topic": 3}])
    with pytest.raises(InvalidChain, match=r"examples\[1\] does not fit the input type: (?s:.*)topic"):
        chain.build()


@pytest.mark.parametrize("message", [["robot", "hi"], {"role": "user"}, {"type": "tool", "content": "x"}])
def test_an_example_with_a_message_that_does_not_fit_is_refused(message: Any) -> None:
    with pytest.raises(InvalidChain, match=r"examples\[0\]"):
        Chain(runnable=echo_graph(), examples=[{"messages": [message]}]).build()


@pytest.mark.parametrize("message", [["human", "hi"], {"role": "user", "content": "hi"}, "hi", HumanMessage("hi")])
def test_an_example_takes_messages_in_any_form(message: Any) -> None:
    Chain(runnable=echo_graph(), examples=[{"messages": [message]}]).build()


def test_a_function_that_makes_no_runnable_is_refused() -> None:
    with pytest.raises(InvalidChain, match="the function made a int"):
        Chain(runnable=lambda: 3).build()  # type: ignore[arg-type, return-value]


def test_declaring_a_chain_loads_no_server() -> None:
    code = "import sys, streamserve; print(sorted({'langserve', 'fastapi', 'langgraph'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert printed.stdout.strip() == "[]"
