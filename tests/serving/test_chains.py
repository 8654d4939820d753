"""Chains that pydantic cannot describe are served or reported; they never keep the others from being served."""

import logging

import httpx
import pytest
from click.testing import CliRunner

from streamserve.app import create_app
from streamserve.catalog.registry import BrokenModules
from streamserve.cli import main
from streamserve.serving.chains import serve_all
from streamserve.settings import Settings
from tests.conftest import Team
from tests.servers import serving

HELLO = """
    from langchain_core.runnables import RunnableLambda
    from streamserve import Chain
    chain = Chain(runnable=RunnableLambda(lambda _: "hello"), input_type=str, examples=["x"])
"""
UNKNOWN_CLASS = """
    from langchain_core.runnables import RunnableLambda
    from streamserve import Chain
    class Odd: ...
    def make(given: str) -> Odd:
        return Odd() if given == "odd" else given
"""
DECLARED = UNKNOWN_CLASS + "    chain = Chain(runnable=RunnableLambda(make), output_type=Odd)\n"
DERIVED = UNKNOWN_CLASS + "    chain = Chain(runnable=RunnableLambda(make))\n"
GRAPH = """
    from typing import Annotated, NotRequired, TypedDict as TypedDictOfPython
    from langgraph.graph import START, StateGraph
    from typing_extensions import TypedDict
    from streamserve import Chain
    class Inner(TypedDictOfPython):
        text: str
    {state}
    def node(state):
        return {{"todos": [*state.get("todos", []), "new"]}}
    chain = Chain(runnable=StateGraph(State).add_node("n", node).add_edge(START, "n").compile(){more})
"""
TODOS = "todos: NotRequired[list[str]]"
STATES = {
    "a qualifier in Annotated": "class State(TypedDict):\n        todos: Annotated[NotRequired[list[str]], 'mark']",
    "typing.TypedDict": "class State(TypedDictOfPython, total=False):\n        todos: list[str]",
    "typing.TypedDict inside": f"class State(TypedDict):\n        {TODOS}\n        inner: NotRequired[Inner]",
}


def invoke(team: Team, chain: str, given: object) -> httpx.Response:
    """Return the answer of a chain of the team's folder."""
    with serving(create_app(team.discover(), Settings())) as url, httpx.Client(base_url=url, timeout=20) as client:
        assert client.get("/openapi.json").status_code == 200
        return client.post(f"/{chain}/invoke", json={"input": given})


@pytest.mark.parametrize("more", ["", ', examples=[{"todos": ["x"]}]'], ids=["no examples", "examples"])
@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
def test_a_state_without_a_schema_is_served_as_in_process(team: Team, state: str, more: str) -> None:
    team.write("tasks.py", GRAPH.format(state=state, more=more))
    answer = invoke(team, "tasks", {"todos": ["old"]})
    assert answer.json()["output"] == {"todos": ["old", "new"]}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
def test_a_wrong_value_in_such_a_state_is_named(team: Team, state: str) -> None:
    team.write("tasks.py", GRAPH.format(state=state, more=""))
    answer = invoke(team, "tasks", {"todos": 5})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "input", "todos"]


def test_a_function_may_return_an_unknown_class(team: Team) -> None:
    team.write("odd.py", DERIVED)
    assert invoke(team, "odd", "a text").json()["output"] == "a text"


def test_a_declared_class_without_a_schema_is_broken(team: Team) -> None:
    team.write("hello.py", HELLO)
    odd = team.write("odd.py", DECLARED)
    with pytest.raises(BrokenModules) as broken:
        create_app(team.discover(), Settings())
    assert str(broken.value).splitlines()[1].startswith(f"  {odd}: PydanticInvalidForJsonSchema")


@pytest.mark.parametrize("command", ["list", "check", "serve"])
def test_each_command_reports_such_a_chain(team: Team, command: str) -> None:
    team.write("hello.py", HELLO)
    odd = team.write("odd.py", DECLARED)
    done = CliRunner().invoke(main, [command])
    assert done.exit_code == 1
    assert f"{odd}: PydanticInvalidForJsonSchema" in done.stderr
    assert "Traceback" not in done.output


def test_the_development_server_leaves_such_a_chain_out(team: Team, caplog: pytest.LogCaptureFixture) -> None:
    team.write("hello.py", HELLO)
    odd = team.write("odd.py", DECLARED)
    with caplog.at_level(logging.ERROR), serving(create_app(team.discover(), Settings(dev=True))) as url:
        assert httpx.post(f"{url}/hello/invoke", json={"input": "x"}, timeout=20).json()["output"] == "hello"
        assert str(odd) in httpx.get(f"{url}/", timeout=20).text
    assert f"left out: {odd}" in caplog.text


@pytest.mark.parametrize(
    ("raised", "report"),
    [("KeyError('no schema')", "KeyError: 'no schema'"), ("SystemExit(3)", "SystemExit: 3")],
    ids=["exception", "exit"],
)
def test_any_error_of_a_schema_is_reported(team: Team, raised: str, report: str) -> None:
    team.write(
        "raises.py",
        HELLO.replace(
            "chain =",
            "class Raises(RunnableLambda):\n        def get_output_schema(self, config=None):\n"
            f"            raise {raised}\n    chain =",
        ).replace("RunnableLambda(lambda", "Raises(lambda"),
    )
    chains, broken = serve_all(team.discover())
    assert not chains
    assert str(broken[0]).endswith(f"raises.py:5: {report}")
